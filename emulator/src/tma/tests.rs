use super::*;

fn plain() -> Tiled<'static> {
    Tiled {
        data_type: DataType::U8,
        address: 0x1000,
        dims: &[256, 100],
        strides: &[256],
        box_dims: &[128, 64],
        element_strides: &[1, 1],
        interleave: Interleave::None,
        swizzle: Swizzle::B128,
        l2_promotion: L2Promotion::B256,
        oob_fill: OobFill::Zero,
    }
}

#[test]
fn a_good_map_survives_encoding() {
    let map = TensorMap::new(&plain()).unwrap();
    let words = map.encode();
    assert_eq!(TensorMap::decode(&words), Ok(map));
    assert_eq!(TensorMap::new(&map.tiled()), Ok(map));
    for word in 0..16 {
        for bit in [0, 17, 40, 63] {
            let mut broken = words;
            broken[word] ^= 1 << bit;
            assert!(TensorMap::decode(&broken).is_err(), "word {word} bit {bit}");
        }
    }
    assert!(TensorMap::decode(&[0; 16]).is_err());
}

#[test]
fn what_the_driver_refuses() {
    type Edit = fn(&mut Tiled<'static>);
    let cases: &[(&str, Edit)] = &[
        ("tensorRank", |t| (t.dims, t.strides, t.box_dims, t.element_strides) = (&[], &[], &[], &[])),
        ("tensorRank", |t| t.dims = &[1; 6]),
        ("tensorRank", |t| t.interleave = Interleave::B16),
        ("globalAddress", |t| t.address = 0x1008),
        ("globalDim[1]", |t| t.dims = &[256, 0]),
        ("globalDim[0]", |t| t.dims = &[(1 << 32) + 1, 4]),
        ("globalStrides", |t| t.strides = &[]),
        ("globalStrides[0]", |t| t.strides = &[264]),
        ("globalStrides[0]", |t| t.strides = &[1 << 40]),
        ("boxDim", |t| t.box_dims = &[128]),
        ("boxDim[1]", |t| t.box_dims = &[128, 0]),
        ("boxDim[1]", |t| t.box_dims = &[128, 257]),
        ("boxDim[0]", |t| t.box_dims = &[120, 4]),
        ("boxDim[0]", |t| t.box_dims = &[144, 4]),
        ("boxDim[0]", |t| (t.swizzle, t.box_dims) = (Swizzle::B64, &[80, 4])),
        ("boxDim[0]", |t| (t.swizzle, t.box_dims) = (Swizzle::B32, &[48, 4])),
        ("elementStrides", |t| t.element_strides = &[1]),
        ("elementStrides[1]", |t| t.element_strides = &[1, 0]),
        ("elementStrides[1]", |t| t.element_strides = &[1, 9]),
        ("oobFill", |t| t.oob_fill = OobFill::Nan),
    ];
    for (argument, edit) in cases {
        let mut args = plain();
        edit(&mut args);
        let error = TensorMap::new(&args).expect_err(argument);
        assert_eq!(error.argument, *argument);
        assert!(error.to_string().contains("expected"), "{error}");
    }
}

#[test]
fn what_the_driver_takes() {
    type Edit = fn(&mut Tiled<'static>);
    let cases: &[Edit] = &[
        |t| t.strides = &[0],
        |t| t.dims = &[1 << 32, 1 << 32],
        |t| (t.swizzle, t.box_dims) = (Swizzle::None, &[256, 256]),
        |t| t.element_strides = &[7, 8],
        |t| (t.data_type, t.oob_fill, t.box_dims) = (DataType::BF16, OobFill::Nan, &[64, 64]),
    ];
    for edit in cases {
        let mut args = plain();
        edit(&mut args);
        TensorMap::new(&args).unwrap();
    }
}

fn xorshift(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Every element of random boxes, against the definition: coordinates to addresses, one element at a time.
#[test]
fn boxes_agree_with_the_definition() {
    let mut seed = 0x1234_5678_9abc_def1;
    let types = [DataType::U8, DataType::BF16, DataType::F32, DataType::F64];
    let swizzles = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
    for _ in 0..400 {
        let mut below = |n: u64| xorshift(&mut seed) % n;
        let rank = 1 + below(5) as usize;
        let data_type = types[below(4) as usize];
        let bytes = data_type.bytes();
        let swizzle = swizzles[below(4) as usize];
        let most = swizzle.span().unwrap_or(256).min(256 * bytes) / 16;
        let mut box_dims = vec![16 * (1 + below(u64::from(most)) as u32) / bytes];
        box_dims[0] = box_dims[0].min(256);
        let mut dims = vec![1 + below(2 * u64::from(box_dims[0]))];
        let mut steps = vec![1];
        let mut strides = Vec::new();
        let mut coords = vec![below(3 * dims[0]) as i32 - dims[0] as i32];
        let mut stride = (dims[0] * u64::from(bytes)).next_multiple_of(16);
        for _ in 1..rank {
            box_dims.push(1 + below(6) as u32);
            dims.push(1 + below(8));
            steps.push(1 + below(3) as u32);
            strides.push(stride);
            stride = stride * dims.last().unwrap() + 16 * below(3);
            coords.push(below(12) as i32 - 4);
        }
        let map = TensorMap::new(&Tiled {
            data_type,
            address: 0x10_0000,
            dims: &dims,
            strides: &strides,
            box_dims: &box_dims,
            element_strides: &steps,
            interleave: Interleave::None,
            swizzle,
            l2_promotion: L2Promotion::None,
            oob_fill: OobFill::Zero,
        })
        .unwrap();
        let base = 128 * below(40) as u32;
        let mut got = std::collections::BTreeMap::new();
        let mut total = 0;
        map.tile(&coords, base, |chunk| {
            assert!(swizzle == Swizzle::None || (chunk.shared & 15) + chunk.len <= 16);
            total += chunk.len;
            for i in 0..chunk.len {
                let old = got.insert(chunk.shared + i, chunk.global.map(|g| g + u64::from(i)));
                assert_eq!(old, None, "a byte of shared memory written twice");
            }
        })
        .unwrap();
        assert_eq!(total, map.box_bytes());
        let counts: Vec<u32> = box_dims.iter().zip(&steps).map(|(b, s)| b.div_ceil(*s)).collect();
        let pitch = swizzle.span().unwrap_or(box_dims[0] * bytes);
        let elements: u32 = counts.iter().product();
        for element in 0..elements {
            let mut rest = element;
            let mut linear = 0;
            let mut row = 0;
            let mut scale = 1;
            let mut address = Some(0x10_0000_i64);
            for dim in 0..rank {
                let index = rest % counts[dim];
                rest /= counts[dim];
                let at = i64::from(coords[dim]) + i64::from(index * steps[dim]);
                let stride = if dim == 0 { i64::from(bytes) } else { strides[dim - 1] as i64 };
                address = address.filter(|_| at >= 0 && at < dims[dim] as i64).map(|a| a + at * stride);
                if dim == 0 {
                    linear = index * bytes;
                } else {
                    row += index * scale;
                    scale *= counts[dim];
                }
            }
            for byte in 0..bytes {
                let place = swizzle.apply(base + row * pitch + linear + byte);
                assert_eq!(got.remove(&place), Some(address.map(|a| a as u64 + u64::from(byte))));
            }
        }
        assert!(got.is_empty());
        assert!(map.tile(&coords[1..], base, |_| ()).is_err());
    }
}

#[test]
fn wild_coordinates_fill_the_whole_box() {
    let map = TensorMap::new(&plain()).unwrap();
    for coords in [[0, 2_147_480_000], [i32::MIN, 0], [i32::MAX, i32::MAX], [0, -64], [256, 0]] {
        let mut bytes = 0;
        map.tile(&coords, 0, |chunk| {
            assert_eq!(chunk.global, None);
            bytes += chunk.len;
        })
        .unwrap();
        assert_eq!(bytes, map.box_bytes());
    }
}

#[test]
fn swizzle_is_a_function_of_the_address() {
    // Row 1, chunk 0 of a 128-byte pattern moves to chunk 1; a tile at an odd multiple of 128 starts inside the pattern.
    assert_eq!(Swizzle::B128.apply(0x80), 0x90);
    assert_eq!(Swizzle::B128.apply(0x380), 0x3f0);
    assert_eq!(Swizzle::B128.apply(0x400), 0x400);
    assert_eq!(Swizzle::B64.apply(0x80), 0x90);
    assert_eq!(Swizzle::B64.apply(0x1b0), 0x180);
    assert_eq!(Swizzle::B32.apply(0x90), 0x80);
    assert_eq!(Swizzle::B32.apply(0x100), 0x100);
}

#[test]
fn fills_and_conversions() {
    let mut args = plain();
    (args.data_type, args.box_dims, args.oob_fill) = (DataType::TF32, &[32, 4], OobFill::Nan);
    let map = TensorMap::new(&args).unwrap();
    let mut bytes = [0; 8];
    map.fill(&mut bytes);
    assert!(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).is_nan());
    let mut bytes = 0x3f80_1001_u32.to_le_bytes();
    map.convert_loaded(&mut bytes);
    assert_eq!(u32::from_le_bytes(bytes), 0x3f80_2000);
}
