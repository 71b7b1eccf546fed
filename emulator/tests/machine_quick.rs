//! Plain arithmetic has a short way through the interpreter, taken by warps whose lanes are together. The same instructions by lanes
//! that parted go the long way: both give the same bits.

mod machine_support;
use machine_support::*;

const VALUES: [u32; 31] = [
    0,
    1,
    2,
    31,
    32,
    33,
    0x7f,
    0x80,
    0xff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_ffff,
    0x3f80_0000,
    0xbf80_0000,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x7f80_0001,
    0x0000_0400,
    0x807f_ffff,
    0x0080_0000,
    0x7f7f_ffff,
    0x4b80_0001,
    0x3eaa_aaab,
    0x1234_5678,
    0x8765_4321,
    0x5555_5555,
    0xaaaa_aaaa,
];

#[test]
fn both_ways_agree() {
    let two = [
        "add.u32",
        "add.s32",
        "sub.u32",
        "mul.lo.u32",
        "mul.lo.s32",
        "and.b32",
        "or.b32",
        "xor.b32",
        "shl.b32",
        "shr.u32",
        "shr.s32",
        "min.u32",
        "min.s32",
        "max.u32",
        "max.s32",
        "add.f32",
        "add.rn.f32",
        "sub.f32",
        "mul.f32",
        "min.f32",
        "max.f32",
    ];
    let mut code = String::new();
    let mut results = 0;
    // Each step leaves a 32-bit result, which is folded into a hash with its number.
    let mut fold = |text: String| {
        results += 1;
        code += &format!("    {text}\n    xor.b32 %h, %h, %d;\n    mul.lo.u32 %h, %h, 16777619;\n");
    };
    for name in two {
        let (d, a, b) = if name.ends_with("f32") { ("%fd", "%fa", "%fb") } else { ("%d", "%a", "%b") };
        let after = if name.ends_with("f32") { " mov.b32 %d, %fd;" } else { "" };
        fold(format!("{name} {d}, {a}, {b};{after}"));
        let constant = if name.ends_with("f32") { "0f3FC00000" } else { "5" };
        fold(format!("{name} {d}, {a}, {constant};{after}"));
        fold(format!("mov.b32 %d, 77; mov.b32 %fd, %d; @%half {name} {d}, {a}, {b};{after}"));
    }
    fold("mad.lo.s32 %d, %a, %b, %c;".into());
    fold("fma.rn.f32 %fd, %fa, %fb, %fc; mov.b32 %d, %fd;".into());
    for wide in ["mul.wide.u32 %x, %a, %b;", "mul.wide.s32 %x, %a, %b;"] {
        fold(format!("{wide} mov.b64 {{%d, %e}}, %x; xor.b32 %d, %d, %e;"));
    }
    for wide in ["mad.wide.u32 %x, %a, %b, %y;", "mad.wide.s32 %x, %a, %b, %y;"] {
        fold(format!("mov.b64 %y, {{%c, %a}}; {wide} mov.b64 {{%d, %e}}, %x; xor.b32 %d, %d, %e;"));
    }
    for op in ["add.s64", "sub.s64", "and.b64", "or.b64"] {
        fold(format!(
            "mov.b64 %x, {{%a, %b}}; mov.b64 %y, {{%c, %a}}; {op} %x, %x, %y; mov.b64 {{%d, %e}}, %x; xor.b32 %d, %d, %e;"
        ));
    }
    for cmp in ["eq", "ne", "lt", "le", "gt", "ge"] {
        for ty in ["u32", "s32"] {
            fold(format!("setp.{cmp}.{ty} %p, %a, %b; selp.b32 %d, %a, 3, %p;"));
        }
    }
    let body = format!(
        "
    .reg .b32 %a, %b, %c, %d, %e, %h, %lane, %i;
    .reg .f32 %fa, %fb, %fc, %fd;
    .reg .b64 %in, %out, %at, %x, %y;
    .reg .pred %p, %half, %last;
    mov.u32 %lane, %tid.x;
    ld.param.u64 %in, [p0];
    ld.param.u64 %out, [p1];
    mov.u32 %i, %ctaid.x;
    mad.wide.u32 %at, %lane, 4, %in;
    ld.global.b32 %a, [%at];
    mad.wide.u32 %at, %i, 4, %in;
    ld.global.b32 %b, [%at];
    mad.lo.u32 %c, %a, 3, %b;
    mov.b32 %fa, %a;
    mov.b32 %fb, %b;
    mov.b32 %fc, %c;
    mov.u32 %d, 0;
    and.b32 %e, %lane, 1;
    setp.eq.u32 %half, %e, 0;
    setp.eq.u32 %last, %lane, 31;
    mov.u32 %h, 0;
{code}
    mad.lo.u32 %i, %i, 64, %lane;
    mad.wide.u32 %at, %i, 4, %out;
    st.global.b32 [%at], %h;
    mov.u32 %h, 0;
    // Lane 31 stands elsewhere while the others go on.
    @%last bra done;
{code}
    st.global.b32 [%at+128], %h;
done:
    ret;"
    );
    let mut bench = Bench::new(&module(2, "", &body));
    let mut values = VALUES.to_vec();
    values.push(7);
    let input = bench.words(&values);
    let out = bench.blank(31 * 64 * 4);
    bench.run(31, 32, &[input, out]).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(results, 85);
    let words = bench.read_words(out, 31 * 64);
    for (b, block) in words.chunks(64).enumerate() {
        for (lane, a) in VALUES.iter().enumerate() {
            assert_eq!(block[lane], block[32 + lane], "operands {a:#x} and {:#x}", VALUES[b]);
        }
    }
}
