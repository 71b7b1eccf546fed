//! Names of special registers.

use crate::ir::Special;

/// Whether a special register has 64 bits.
pub(super) fn is_wide(special: Special) -> bool {
    matches!(special, Special::Clock64 | Special::Globaltimer | Special::GridId)
}

/// The special register a name such as `%tid.x` or `%laneid` stands for.
pub(super) fn named(name: &str, member: Option<&str>) -> Option<Special> {
    use Special::*;
    let triple = |three: [Special; 3]| match member {
        Some("x") => Some(three[0]),
        Some("y") => Some(three[1]),
        Some("z") => Some(three[2]),
        _ => None,
    };
    match name {
        "%tid" => return triple([TidX, TidY, TidZ]),
        "%ntid" => return triple([NtidX, NtidY, NtidZ]),
        "%ctaid" => return triple([CtaidX, CtaidY, CtaidZ]),
        "%nctaid" => return triple([NctaidX, NctaidY, NctaidZ]),
        "%clusterid" => return triple([ClusterIdX, ClusterIdY, ClusterIdZ]),
        "%nclusterid" => return triple([NclusterIdX, NclusterIdY, NclusterIdZ]),
        "%cluster_ctaid" => return triple([ClusterCtaidX, ClusterCtaidY, ClusterCtaidZ]),
        "%cluster_nctaid" => return triple([ClusterNctaidX, ClusterNctaidY, ClusterNctaidZ]),
        _ if member.is_some() => return None,
        _ => {}
    }
    Some(match name {
        "%laneid" => LaneId,
        "%warpid" => WarpId,
        "%nwarpid" => NwarpId,
        "%smid" => SmId,
        "%nsmid" => NsmId,
        "%gridid" => GridId,
        "%lanemask_eq" => LanemaskEq,
        "%lanemask_lt" => LanemaskLt,
        "%lanemask_le" => LanemaskLe,
        "%lanemask_gt" => LanemaskGt,
        "%lanemask_ge" => LanemaskGe,
        "%cluster_ctarank" => ClusterCtarank,
        "%cluster_nctarank" => ClusterNctarank,
        "%is_explicit_cluster" => IsExplicitCluster,
        "%clock" => Clock,
        "%clock_hi" => ClockHi,
        "%clock64" => Clock64,
        "%globaltimer_lo" => GlobaltimerLo,
        "%globaltimer_hi" => GlobaltimerHi,
        "%globaltimer" => Globaltimer,
        "%dynamic_smem_size" => DynamicSmemSize,
        "%total_smem_size" => TotalSmemSize,
        "%aggr_smem_size" => AggrSmemSize,
        "%reserved_smem_offset_begin" => ReservedSmemBegin,
        "%reserved_smem_offset_0" => ReservedSmem0,
        "%reserved_smem_offset_1" => ReservedSmem1,
        "%reserved_smem_offset_end" => ReservedSmemEnd,
        "%reserved_smem_offset_cap" => ReservedSmemCap,
        _ => {
            let number = name.strip_prefix("%envreg")?;
            let canonical = number == "0" || !number.starts_with('0');
            EnvReg(number.parse().ok().filter(|n| *n < 32 && canonical)?)
        }
    })
}
