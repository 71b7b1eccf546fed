//! What the example says: a table of kernels and the numbers of the whole, for people and as one JSON object.

use hadal::emulator::KernelCounters;
use serde::Serialize;

use super::MOST_DIFF;
use super::options::MICRO_BATCHES;
use super::reference::NEAR_TIE;

/// What one kernel did on one device.
#[derive(Debug, Serialize)]
pub struct Kernel {
    pub device: usize,
    pub kernel: String,
    pub exchange: bool,
    /// That its blocks ran on.
    pub sms: u32,
    pub launches: u64,
    pub instructions: u64,
    /// Of these, issued while a block of the other stream was on the device.
    pub beside_instructions: u64,
    pub shared_bytes: u64,
    /// Links included.
    pub global_bytes: u64,
    pub link_bytes: u64,
    /// Against its own reference on the inputs it had, see `verify.rs`; computed for rank 0.
    pub error: Option<f64>,
}

impl Kernel {
    pub fn new(device: usize, exchange: bool, error: Option<f64>, tally: KernelCounters) -> Kernel {
        let c = tally.counters;
        Kernel {
            device,
            exchange,
            kernel: tally.kernel,
            sms: c.sms_used,
            launches: c.launches,
            instructions: c.instructions,
            beside_instructions: c.beside_instructions,
            shared_bytes: c.shared_load_bytes + c.shared_store_bytes + c.wgmma_shared_bytes,
            global_bytes: c.global_load_bytes + c.global_store_bytes + c.tma_load_bytes + c.tma_store_bytes,
            link_bytes: c.link_load_bytes + c.link_store_bytes,
            error,
        }
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub ranks: usize,
    pub heads: usize,
    pub experts: usize,
    /// Places for experts, replicas included.
    pub slots: usize,
    pub topk: usize,
    pub tokens: usize,
    pub comm_sms: u32,
    pub compute_sms: u32,
    /// Whether the checks that may be left out were on.
    pub checked: bool,
    /// Against the layer in F64.
    pub diff: f64,
    pub max_abs_error: f64,
    pub max_abs: f64,
    /// Of a score that experts are chosen by, against F64.
    pub max_score_error: f64,
    /// Tokens that went to experts which in F64 are best but for less than `near_tie`.
    pub near_ties: usize,
    pub near_tie: f64,
    pub link_bytes: u64,
    pub link_floor_bytes: u64,
    pub instructions: u64,
    /// Of the exchange's instructions, the part issued while a block of a compute kernel was on the same device.
    pub exchange_beside_compute: f64,
    pub kernels: Vec<Kernel>,
    /// What was wrong, in words. Empty when all is well.
    pub failures: Vec<String>,
    pub seconds: f64,
}

impl Summary {
    pub fn print(&self) {
        let replicas = match self.slots - self.experts {
            0 => String::new(),
            more => format!(" and {more} replicas"),
        };
        println!(
            "layer     {} ranks, {} heads, {} experts{replicas} and a shared one, top {}, {} tokens in all in {MICRO_BATCHES} halves, emulated",
            self.ranks, self.heads, self.experts, self.topk, self.tokens
        );
        println!(
            "SMs       {} of {} for the exchange, {} for the rest",
            self.comm_sms,
            self.comm_sms + self.compute_sms,
            self.compute_sms
        );
        println!();
        println!(
            "{:<46} device  SMs  launches  instructions  beside  MB shared  MB global  MB links    error",
            "kernel"
        );
        self.kernels.iter().for_each(Kernel::print);
        println!();
        println!("work      {} warp instructions issued by all ranks", self.instructions);
        println!(
            "links     {} bytes, {:.1} % over the floor of one row out and one back for each token and rank",
            self.link_bytes,
            100.0 * (self.link_bytes as f64 / self.link_floor_bytes.max(1) as f64 - 1.0)
        );
        println!(
            "overlap   {:.1} % of the exchange's instructions were issued while a compute kernel ran on the same device",
            100.0 * self.exchange_beside_compute
        );
        match self.checked {
            true => println!("checked   as it ran: every check of the emulator, on all ranks"),
            false => {
                println!("checked   as it ran: bounds, alignment, barriers and deadlock only, on all ranks")
            }
        }
        println!(
            "          afterwards: every kernel of rank 0 against its own reference; `exact` is bit for bit"
        );
        println!(
            "experts   chosen as in F64 but for {} tokens within {NEAR_TIE:e} of a tie; scores differ by {:.1e} at most",
            self.near_ties, self.max_score_error
        );
        println!("error     {:.2e} against the layer in F64 (calc_diff; at most {MOST_DIFF:e})", self.diff);
        println!(
            "          {:.3} at most in any element, where the largest is {:.1}",
            self.max_abs_error, self.max_abs
        );
        println!("time      {:.0} s of wall time, the references included", self.seconds);
        for failure in &self.failures {
            println!("WRONG     {failure}");
        }
    }
}

impl Kernel {
    fn print(&self) {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let error = match self.error {
            None => "-".to_owned(),
            Some(0.0) => "exact".to_owned(),
            Some(error) => format!("{error:.1e}"),
        };
        println!(
            "{:<46} {:>6} {:>4} {:>9} {:>13} {:>5.0} % {:>10.2} {:>10.2} {:>9.2} {error:>8}",
            self.kernel,
            self.device,
            self.sms,
            self.launches,
            self.instructions,
            100.0 * self.beside_instructions as f64 / self.instructions.max(1) as f64,
            mb(self.shared_bytes),
            mb(self.global_bytes),
            mb(self.link_bytes)
        );
    }
}
