//! Every operation against Pillow's pixels.
//!
//! The expected values come from `torchvision.transforms.autoaugment._apply_op` and the table of `RandAugment` of
//! torchvision 0.28.0, on pictures of Pillow 13.0.0, with `InterpolationMode.NEAREST` and no fill.

use super::*;
use xxhash_rust::xxh3::Xxh3;

/// A picture of 8 × 6 pixels.
const PHOTO: &str = "82a05f98c09ced42844e49738f9da3f0bc108e545bdb700c956b2d3f547e6285f047476ecc4ee424377c43549fb2876c\
     de9c6fd5408bae7f57985a5638db59d09a6dae93891f84bea2c5e89cf0166f0cb986f0660cd9222773ab5c8d0cf07b88\
     a88b8d3f789ec9778697a88e6e5cce9481f0bdbb8a38cf7983c7c79081f0a838b48a82af90f08e91d158c67bd2449d10";

/// What becomes of it: the operation, the magnitude, whether it is turned around, the pixels.
const EXPECTED: &[(Operation, usize, bool, &str)] = &[
    (
        Operation::ShearX,
        20,
        false,
        "82a05f98c09ced42844e49738f9da3f0bc108e545bdb700c956b2d3f547e6285f047476ecc4ee424377c43549fb2876c\
     d5408bae7f57985a5638db59d09a6dae93891f84be0000009cf0166f0cb986f0660cd9222773ab5c8d0cf07b88000000\
     3f789ec9778697a88e6e5cce9481f0bdbb8a38cf790000009081f0a838b48a82af90f08e91d158c67bd2449d10000000",
    ),
    (
        Operation::ShearX,
        27,
        true,
        "82a05f98c09ced42844e49738f9da3f0bc108e545bdb700c956b2d3f547e6285f047476ecc4ee424377c43549fb2876c\
     000000de9c6fd5408bae7f57985a5638db59d09a6dae9389000000a2c5e89cf0166f0cb986f0660cd9222773ab5c8d0c\
     000000a88b8d3f789ec9778697a88e6e5cce9481f0bdbb8a00000083c7c79081f0a838b48a82af90f08e91d158c67bd2",
    ),
    (
        Operation::ShearY,
        20,
        false,
        "82a05f98c09c6285f047476ecc4ee424377c43549fb2876c956b2d3f547eae7f57985a5638db59d09a6dae93891f84be\
     de9c6fd5408b6f0cb986f0660cd9222773ab5c8d0cf07b88a2c5e89cf016c9778697a88e6e5cce9481f0bdbb8a38cf79\
     a88b8d3f789ea838b48a82af90f08e91d158c67bd2449d1083c7c79081f0000000000000000000000000000000000000",
    ),
    (
        Operation::ShearY,
        27,
        true,
        "82a05f98c09c000000000000000000000000000000000000956b2d3f547eed42844e49738f9da3f0bc10000000000000\
     de9c6fd5408b6285f047476ecc4ee424377c8e545bdb700ca2c5e89cf016ae7f57985a5638db59d09a6d43549fb2876c\
     a88b8d3f789e6f0cb986f0660cd9222773abae93891f84be83c7c79081f0c9778697a88e6e5cce9481f05c8d0cf07b88",
    ),
    (
        Operation::TranslateX,
        20,
        false,
        "00000000000082a05f98c09ced42844e49738f9da3f0bc10000000000000956b2d3f547e6285f047476ecc4ee424377c\
     000000000000de9c6fd5408bae7f57985a5638db59d09a6d000000000000a2c5e89cf0166f0cb986f0660cd9222773ab\
     000000000000a88b8d3f789ec9778697a88e6e5cce9481f000000000000083c7c79081f0a838b48a82af90f08e91d158",
    ),
    (
        Operation::TranslateX,
        27,
        true,
        "4e49738f9da3f0bc108e545bdb700c00000000000000000047476ecc4ee424377c43549fb2876c000000000000000000\
     985a5638db59d09a6dae93891f84be00000000000000000086f0660cd9222773ab5c8d0cf07b88000000000000000000\
     97a88e6e5cce9481f0bdbb8a38cf790000000000000000008a82af90f08e91d158c67bd2449d10000000000000000000",
    ),
    (
        Operation::TranslateY,
        20,
        false,
        "00000000000000000000000000000000000000000000000082a05f98c09ced42844e49738f9da3f0bc108e545bdb700c\
     956b2d3f547e6285f047476ecc4ee424377c43549fb2876cde9c6fd5408bae7f57985a5638db59d09a6dae93891f84be\
     a2c5e89cf0166f0cb986f0660cd9222773ab5c8d0cf07b88a88b8d3f789ec9778697a88e6e5cce9481f0bdbb8a38cf79",
    ),
    (
        Operation::TranslateY,
        27,
        true,
        "de9c6fd5408bae7f57985a5638db59d09a6dae93891f84bea2c5e89cf0166f0cb986f0660cd9222773ab5c8d0cf07b88\
     a88b8d3f789ec9778697a88e6e5cce9481f0bdbb8a38cf7983c7c79081f0a838b48a82af90f08e91d158c67bd2449d10\
     000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        Operation::Rotate,
        20,
        false,
        "0000000000004e49738f9da3f0bc1043549fb2876c00000098c09ced428447476ecc4ee4cc4ee4d09a6dae93891f84be\
     956b2d3f547eae7f57985a5638db592773ab5c8d0cf07b88de9c6fd5408bae7f5786f0660cd9222773abbdbb8a38cf79\
     a2c5e89cf0166f0cb997a88e97a88e6e5cce91d158c67bd2000000a88b8d3f789ea838b48a82af90f08e000000000000",
    ),
    (
        Operation::Rotate,
        27,
        true,
        "000000956b2d3f547eed42844e49738f9da3000000000000a2c5e8d5408bd5408b6285f047476e8f9da3f0bc108e545b\
     a88b8d9cf0166f0cb9985a5638db5924377c43549f8e545b9081f03f789ec9778686f0660cd922d09a6dae9389b2876c\
     9081f0a838b48a82af6e5cce9481f05c8d0c5c8d0c1f84be0000000000008a82af90f08e91d158bdbb8a38cf79000000",
    ),
    (
        Operation::Brightness,
        20,
        false,
        "cfff97f3fff9ff69d37c74b7e4fbffffff19e38691ffb313eeab476486c99cd4ff7171afff7cff3957c66b86feffd7ac\
     fff9b1ff66deffcb8bf38f8959ff8efff6aeffebdb31d3fffffffff9ff23b113ffd6ffa313ff363eb7ff93e113ffc4d9\
     ffdee164bffcffbed6f1ffe3af93ffecceffffffdc59ffc1d1ffffe6ceffff59ffdccfffe6ffe3e7ff8cffc4ff6cfb19",
    ),
    (
        Operation::Brightness,
        27,
        true,
        "181e121c241d2d0c190e0d151b1d1e2d23031a0f112915021c14080b0f1712192d0d0d14260e2b060a170c0f1e211914\
     2a1d15280c1a2118101c11100a2910271d14211b1a0519241e252c1d2d04150223192d13022906071520111a022d1719\
     1f1a1a0b161e2616191c1f1a1411271c182d23231a0a27161825251b182d1f0a221a18211b2d1a1b27102517270c1d03",
    ),
    (
        Operation::Color,
        20,
        false,
        "79a94189c990ff1e884d4588899fa9ffbe00a64954ff6300ab68043354974b83ff444483f62dff1735a43752cac58155\
     fc934bff2098c47939b24f4800ff31e9934bba8e7e0092ef90c8ff87ff008d00ff62ff2f00ff00037cd6509e00ff657a\
     b48588247fbcea677f91ac836e51ff9476ffc1be6f00f06666d3d38e76ffce1be18a7dc56eff6b7ee423df67f328b600",
    ),
    (
        Operation::Color,
        27,
        true,
        "8d9386abb3ac92717e4e4d5597999ac2b8986d626395816e776f634f535b7f869a4a4a51927a97353845535664978f89\
     b4a89f876a798f867e74686788a78eada29a9d98965d707bb9c0c6b7c79e463354b5c9af6f96735766706c755dae989a\
     979292626d749b8c8e9ea19c6e6a80938fa4b7b6ad85a292a9b6b6918ea3745e768a8891bdcfbcaab69fa394a5697a5f",
    ),
    (
        Operation::Contrast,
        20,
        false,
        "7eae46a1e1a8ff18812b236693a9b3ffdb00913440ff61009c59001334784b83ff20205ef42bff0006741934accb865b\
     ffa860ff148cc47939a13e3808ff3cfba45cc499890081deb1e9ffa8ff006000d684ff5100ff000066c0419000ff7388\
     bb8c90136eabf06c84a0bb915e41f89b7cffdcd98b08f97080ecec947cffbb08ce8b7ec694ff9196fc3beb73fe1ba900",
    ),
    (
        Operation::Contrast,
        27,
        true,
        "868c808b928b9b7a877c7c84898b8d9b9171897e7f9783708a82767a7e8680879b7b7b83947c997578857a7e8c8f8782\
     988b83967a888f867e8b7f7e78977f958b828f8a887487928c939a8b9b72837091879b8170977475848e7f88709b8588\
     8e88887a848c9484878a8e89837f958a869b92918878958587939389869b8e789088868f899b8989957e9385967b8b71",
    ),
    (
        Operation::Sharpness,
        20,
        false,
        "82a05f98c09ced42844e49738f9da3f0bc108e545bdb700c956b2d16447e5192ff2c3562ea3cff00177c2344b5b2876c\
     de9c6fef268ec08248a8484425fc4dfda269c59d8d1f84bea2c5e899ff005e00d58aff5f00f1000762bd4b8a00f07b88\
     a88b8d1c729be27080a0b28c6c3be7a073ffd5c88e38cf7983c7c79081f0a838b48a82af90f08e91d158c67bd2449d10",
    ),
    (
        Operation::Sharpness,
        27,
        true,
        "82a05f98c09ced42844e49738f9da3f0bc108e545bdb700c956b2d75697e7772b36a5e7ea365a45f617c6d6981b2876c\
     de9c6fb16286957a6a82716e51ad68928e718e84831f84bea2c5e8a0b255844e927fb96e43b758518991719153f07b88\
     a88b8d6d80a2a67f8e8a998f6f88ab8392b69ca98338cf7983c7c79081f0a838b48a82af90f08e91d158c67bd2449d10",
    ),
    (
        Operation::Posterize,
        17,
        false,
        "80a05c98c09cec40844c48708c9ca0f0bc108c5458d8700c94682c3c547c6084f044446ccc4ce424347c40549cb0846c\
     dc9c6cd44088ac7c5498585438d858d0986cac90881c84bca0c4e89cf0146c0cb884f0640cd8202470a85c8c0cf07888\
     a8888c3c789cc8748494a88c6c5ccc9480f0bcb88838cc7880c4c49080f0a838b48880ac90f08c90d058c478d0449c10",
    ),
    (
        Operation::Solarize,
        17,
        false,
        "7d5f5f673f6312427b4e498c70625c0f431071545b248f0c6a6b2d3f5481627a0f47476e334e1b2437834354604d786c\
     2163902a4074518057675a563824592f656d516c761f7b415d3a17630f16900c46790f660c2622278c545c720c0f8477\
     5774723f87613688796857716e5c316b7e0f4244753830867c38386f7e0f57384b757d506f0f716e2e5839842d446210",
    ),
    (
        Operation::AutoContrast,
        17,
        false,
        "83a55c9cc9a1fb3c8649447392a2a8ffc404915058e76f00996a2439507f6087ff41416dd649f11a307d3d50a4b9896b\
     eaa16ee03a8eb580539c575231e756db9e6cb5968b1586c7a7cef6a1ff0b6e00c188ff6400e5181e73b1599000ff7c8a\
     ae8e903978a3d377889bae916d59d89882ffc5c38c31da7985d1d19382ffae31bb8c83b693ff9194dc55d07cdd3ea204",
    ),
];

/// Every operation at every magnitude and in each of its directions, one after the other, on [`PICTURES`].
const EXPECTED_HASHES: [(Operation, u64); 14] = [
    (Operation::Identity, 0x9ff6_c511_8b98_4f76),
    (Operation::ShearX, 0x991b_5437_8560_c5d9),
    (Operation::ShearY, 0xd832_b88b_0712_cdd7),
    (Operation::TranslateX, 0x940b_8e52_9858_8240),
    (Operation::TranslateY, 0xc9b5_2484_13a2_37ee),
    (Operation::Rotate, 0x2505_45f3_3590_934a),
    (Operation::Brightness, 0x5696_7cb2_9462_c0fd),
    (Operation::Color, 0x8329_e9d1_e6ed_5f7a),
    (Operation::Contrast, 0xac8e_9e89_8f03_d0cb),
    (Operation::Sharpness, 0x7a9f_018c_acaf_5a90),
    (Operation::Posterize, 0x417b_8f8d_ef90_23ab),
    (Operation::Solarize, 0xa770_afc1_ba8e_7e4b),
    (Operation::AutoContrast, 0x02a2_3f32_c403_2caf),
    (Operation::Equalize, 0x3835_fd68_26de_033b),
];

/// Width and height of the pictures that are hashed.
const PICTURES: [(usize, usize); 4] = [(24, 20), (61, 47), (2, 3), (97, 96)];

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits = hexadecimal.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Another brightness and range in each channel, gradients in both directions, and noise.
fn picture((width, height): (usize, usize)) -> Vec<u8> {
    let value = |i: usize| {
        let (channel, x, y) = (i % 3, i / 3 % width, i / 3 / width);
        let noise = (i as u32).wrapping_mul(2_654_435_761) >> 27;
        (20 + 40 * channel + x * 90 / width + y * 60 / height + noise as usize).min(255) as u8
    };
    (0..width * height * 3).map(value).collect()
}

fn directions(operation: Operation) -> &'static [f64] {
    if operation.has_two_directions() { &[1.0, -1.0] } else { &[1.0] }
}

#[test]
fn a_small_picture_becomes_what_pillow_makes_of_it() {
    for &(operation, magnitude, turned, expected) in EXPECTED {
        let mut data = bytes(PHOTO);
        let strength = operation.strength(magnitude, (8, 6));
        operation.apply(&mut data, 8, if turned { -strength } else { strength });
        assert_eq!(data, bytes(expected), "{operation:?} {magnitude} {turned}");
        assert_ne!(data, bytes(PHOTO), "{operation:?} {magnitude} {turned} changes nothing");
    }
}

#[test]
fn all_magnitudes_and_directions_give_pillows_pixels() {
    for (operation, expected) in EXPECTED_HASHES {
        let mut hash = Xxh3::new();
        for size in PICTURES {
            let strengths = (0..LEVELS).map(|magnitude| operation.strength(magnitude, size));
            for strength in
                strengths.flat_map(|strength| directions(operation).iter().map(move |sign| sign * strength))
            {
                let mut data = picture(size);
                operation.apply(&mut data, size.0, strength);
                hash.update(&data);
            }
        }
        assert_eq!(hash.digest(), expected, "{operation:?}");
    }
}

#[test]
fn pictures_without_an_inside_are_no_exception() {
    for size in [(1, 1), (1, 5), (5, 1), (2, 2)] {
        for operation in Operation::ALL {
            for strength in [0, 30].map(|magnitude| operation.strength(magnitude, size)) {
                let mut data = picture(size);
                operation.apply(&mut data, size.0, strength);
                let neutral = strength == 0.0 && operation.has_two_directions();
                assert!(!neutral || data == picture(size), "{operation:?} {size:?}");
            }
        }
    }
}
