use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use proptest::prelude::{any, prop};

use super::*;
use crate::model::manifest::parse;

const OBJECTS: &str = include_str!("../../../models/objects/model.toml");
const FACES: &str = include_str!("../../../models/faces/model.toml");
const SPEECH: &str = include_str!("../../../models/speech/model.toml");
const FILE_TYPE: &str = include_str!("../../../models/file-type/model.toml");
const FORECAST: &str = include_str!("../../../models/prb-forecast/model.toml");
const JPEG: &[u8] = include_bytes!("../../../models/objects/samples/chelsea.jpg");

/// A manifest for pictures of 4 × 2, with this `[prepare.picture]`.
fn tiny(shape: &str, datatype: &str, picture: &str) -> Manifest {
    let text = format!(
        "name = \"tiny\"\nversion = 1\nsummary = \"s\"\nlicence = \"l\"\nsource = \"s\"\nfile = \"m.onnx\"\n\
         digest = \"sha256:{}\"\ninputs = [{{ name = \"x\", datatype = \"{datatype}\", shape = {shape} }}]\n\
         outputs = [{{ name = \"y\", datatype = \"FP32\", shape = [1] }}]\n\
         [prepare]\naccepts = \"image\"\ninput = \"x\"\n[prepare.picture]\nwidth = 4\nheight = 2\n{picture}",
        "ab".repeat(32)
    );
    parse(&text).unwrap()
}

fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = RgbImage::from_fn(width, height, |x, y| Rgb(pixel(x, y)));
    DynamicImage::ImageRgb8(image).write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn wav(spec: hound::WavSpec, samples: &[i16]) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    samples.iter().for_each(|sample| writer.write_sample(*sample).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}

fn mono(sample_rate: u32) -> hound::WavSpec {
    hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int }
}

fn refused(manifest: &Manifest, medium: &[u8]) -> String {
    let fault = prepare(manifest, medium).unwrap_err();
    assert_eq!(fault.code, Code::InputDecode, "{fault}");
    fault.message
}

#[test]
fn pixels_are_scaled_shifted_and_put_in_planes() {
    let manifest = tiny(
        "[1, 3, 2, 4]",
        "FP32",
        "fit = \"stretch\"\nlayout = \"NCHW\"\ncolour = \"BGR\"\nmean = [1, 2, 3]\nstd = [2, 4, 8]\n",
    );
    let picture = png(4, 2, |x, y| [u8::try_from(x).unwrap(), 100, u8::try_from(y * 10).unwrap()]);
    let prepared = prepare(&manifest, &picture).unwrap();
    let values = prepared.inputs[0].to_f32s().unwrap();
    assert_eq!(prepared.inputs[0].shape, [1, 3, 2, 4]);
    assert_eq!(values[..8], [-0.5, -0.5, -0.5, -0.5, 4.5, 4.5, 4.5, 4.5]);
    assert_eq!(values[8..16], [24.5; 8]);
    assert_eq!(values[16..20], [-0.375, -0.25, -0.125, 0.0]);
}

#[test]
fn channels_last_and_bytes_are_kept_as_they_are() {
    let manifest = tiny("[-1, 2, 4, 3]", "UINT8", "fit = \"stretch\"\nlayout = \"NHWC\"\ncolour = \"RGB\"\n");
    let prepared = prepare(&manifest, &png(4, 2, |_, _| [1, 2, 3])).unwrap();
    assert_eq!(
        (prepared.inputs[0].datatype, prepared.inputs[0].shape.as_slice()),
        (DataType::Uint8, &[1, 2, 4, 3][..])
    );
    assert_eq!(prepared.inputs[0].data, [1, 2, 3].repeat(8));
}

#[test]
fn a_letterbox_has_its_border_and_tells_where_the_picture_lies() {
    let manifest = tiny(
        "[1, 1, 2, 4]",
        "FP32",
        "fit = \"letterbox\"\nlayout = \"NCHW\"\ncolour = \"gray\"\nscale = 0.5\nborder = 8\n",
    );
    let prepared = prepare(&manifest, &png(6, 6, |_, _| [200, 200, 200])).unwrap();
    assert_eq!(prepared.inputs[0].to_f32s().unwrap(), [4., 100., 100., 4., 4., 100., 100., 4.]);
    let third = 1.0 / 3.0;
    assert_eq!(
        prepared.geometry,
        Geometry::Picture {
            width: 6,
            height: 6,
            network_width: 4,
            network_height: 2,
            scale_x: third,
            scale_y: third,
            left: 1.0,
            top: 0.0
        }
    );
}

#[test]
fn a_picture_of_any_size_fits_a_network_of_any_size() {
    let manifest = parse(FACES).unwrap();
    let prepared = prepare(&manifest, JPEG).unwrap();
    assert_eq!(prepared.inputs[0].shape, [1, 3, 320, 480]);
}

#[test]
fn a_picture_that_lies_on_its_side_is_turned() {
    // An EXIF segment with orientation 6 (turn right by 90°), put behind the start of the file.
    let exif = b"\xff\xe1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let turned = [&JPEG[..2], exif, &JPEG[2..]].concat();
    let manifest = parse(FACES).unwrap();
    assert_eq!(prepare(&manifest, &turned).unwrap().inputs[0].shape, [1, 3, 480, 320]);
}

#[test]
fn what_is_no_picture_says_so() {
    let manifest = parse(OBJECTS).unwrap();
    for medium in [&b""[..], b"GIF89a", b"hello", &JPEG[..100]] {
        assert!(refused(&manifest, medium).contains("a JPEG or PNG of at most 8192 × 8192 pixels is needed"));
    }
}

#[test]
fn a_picture_that_claims_to_be_huge_takes_no_memory() {
    let manifest = parse(OBJECTS).unwrap();
    let mut wide = png(4, 4, |_, _| [0; 3]);
    // Width and height of the header, whose checksum is then wrong as well: either way it is refused.
    wide[16..24].copy_from_slice(&[0, 0, 0x7f, 0xff, 0, 0, 0x7f, 0xff]);
    refused(&manifest, &wide);
    let mut jpeg = JPEG.to_vec();
    let frame = jpeg.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x1f, 0x40, 0x1f, 0x40]);
    assert!(refused(&manifest, &jpeg).contains("8000 × 8000 pixels are 192000000 bytes decoded, at most 67108864"));
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    refused(&manifest, &jpeg);
}

#[test]
fn sound_becomes_frames_that_overlap() {
    let manifest = parse(SPEECH).unwrap();
    let samples: Vec<i16> = (0..1000).map(|at| at * 16).collect();
    let prepared = prepare(&manifest, &wav(mono(16_000), &samples)).unwrap();
    assert_eq!(prepared.geometry, Geometry::Audio { samples: 1000, sample_rate: 16_000 });
    let shapes: Vec<&[usize]> = prepared.inputs.iter().map(|input| input.shape.as_slice()).collect();
    assert_eq!(shapes, [&[2, 576][..], &[1, 1, 128], &[1, 1, 128]]);
    let values = prepared.inputs[0].to_f32s().unwrap();
    assert_eq!((values[63], values[65], values[576]), (0.0, 16.0 / 32768.0, 448.0 * 16.0 / 32768.0));
    assert_eq!(values[1151], 0.0);
}

#[test]
fn two_channels_at_another_rate_are_mixed_and_resampled() {
    let manifest = parse(SPEECH).unwrap();
    let stereo = hound::WavSpec { channels: 2, ..mono(8_000) };
    let samples: Vec<i16> = (0..512).flat_map(|_| [8192, 24576]).collect();
    let prepared = prepare(&manifest, &wav(stereo, &samples)).unwrap();
    assert_eq!(prepared.geometry, Geometry::Audio { samples: 1024, sample_rate: 16_000 });
    assert_eq!(prepared.inputs[0].to_f32s().unwrap()[64..576], [0.5; 512]);
}

#[test]
fn what_is_no_sound_says_so() {
    let manifest = parse(SPEECH).unwrap();
    let good = wav(mono(16_000), &[1; 600]);
    assert!(refused(&manifest, b"RIFF").contains("a PCM or float WAV is needed"));
    assert!(refused(&manifest, &good[..300]).contains("a PCM or float WAV is needed"));
    assert!(refused(&manifest, &wav(mono(16_000), &[])).contains("0.0 s long; more than 0 and at most 600 s"));
    assert!(
        refused(&manifest, &wav(mono(1_000), &[1; 9])).contains("1 channels at 1000 Hz; at most 8 at 4000 to 192000")
    );
    let many = hound::WavSpec { channels: 9, ..mono(16_000) };
    assert!(refused(&manifest, &wav(many, &[1; 9])).contains("9 channels at 16000 Hz"));
    let mut no_bytes = good;
    // Block size and bits a sample, both 0.
    no_bytes[28..36].copy_from_slice(&[0; 8]);
    assert!(refused(&manifest, &no_bytes).contains("0 bits a sample, 1 channels in 0 bytes make no sense"));
}

#[test]
fn samples_that_are_no_numbers_are_refused() {
    let manifest = parse(SPEECH).unwrap();
    let float = hound::WavSpec { bits_per_sample: 32, sample_format: hound::SampleFormat::Float, ..mono(16_000) };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, float).unwrap();
    [0.5_f32, f32::NAN].iter().for_each(|sample| writer.write_sample(*sample).unwrap());
    writer.finalize().unwrap();
    assert!(refused(&manifest, bytes.get_ref()).contains("not finite"));
}

#[test]
fn the_bytes_of_a_file_become_integers() {
    let manifest = parse(FILE_TYPE).unwrap();
    let prepared = prepare(&manifest, b"  hello world\n").unwrap();
    assert_eq!((prepared.inputs[0].datatype, prepared.inputs[0].shape.as_slice()), (DataType::Int32, &[1, 2048][..]));
    let tokens: Vec<i32> = prepared.inputs[0].data.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
    assert_eq!((tokens[0], tokens[11], tokens[12], tokens[2047], tokens[2034]), (104, 10, 256, 100, 256));
    assert!(refused(&manifest, b"").contains("too few to judge"));
}

#[test]
fn a_model_without_media_asks_for_tensors() {
    let manifest = parse(FORECAST).unwrap();
    assert_eq!(prepare(&manifest, b"x").unwrap_err().code, Code::InputName);
}

#[test]
fn a_request_may_carry_the_medium_or_the_tensors() {
    let manifest = parse(SPEECH).unwrap();
    let sound = Tensor::bytes("audio", &wav(mono(16_000), &[1; 600]));
    let state = Tensor::f32s("h", vec![1, 1, 128], &[0.25; 128]).unwrap();
    let (given, geometry) = inputs(&manifest, vec![state.clone(), sound]).unwrap();
    assert_eq!((given.len(), given[1] == state, geometry.is_some()), (3, true, true));
    let (given, geometry) = inputs(&manifest, vec![given[0].clone()]).unwrap();
    assert_eq!((given.len(), given[1].to_f32s().unwrap()[0], geometry), (3, 0.0, None));
    assert_eq!(inputs(&manifest, vec![state]).unwrap_err().code, Code::InputCount);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_make_the_decoders_panic(medium in prop::collection::vec(any::<u8>(), 0..300)) {
        for text in [OBJECTS, SPEECH, FILE_TYPE] {
            drop(prepare(&parse(text).unwrap(), &medium));
        }
    }

    #[test]
    fn no_damage_to_a_picture_makes_the_decoder_panic(at in 0..JPEG.len(), byte in any::<u8>(), cut in 0..JPEG.len()) {
        let manifest = parse(FACES).unwrap();
        let mut damaged = JPEG.to_vec();
        damaged[at] = byte;
        damaged[at / 40] = byte;
        drop(prepare(&manifest, &damaged));
        drop(prepare(&manifest, &damaged[..cut]));
    }

    #[test]
    fn no_damage_to_a_sound_makes_the_decoder_panic(at in 0..60_usize, byte in any::<u8>(), also in 0..60_usize, cut in 0..400_usize) {
        let manifest = parse(SPEECH).unwrap();
        let mut damaged = wav(mono(16_000), &[7; 200]);
        damaged[at] = byte;
        drop(prepare(&manifest, &damaged));
        damaged[also] = 0;
        drop(prepare(&manifest, &damaged));
        drop(prepare(&manifest, &damaged[..cut]));
    }
}

#[test]
fn a_jpeg_that_was_cut_off_is_refused_and_not_filled_with_grey() {
    let objects = parse(OBJECTS).unwrap();
    for length in [JPEG.len() / 3, JPEG.len() - 2] {
        let why = refused(&objects, &JPEG[..length]);
        assert!(why.contains(&length.to_string()) && why.contains("end mark"), "{why}");
    }
    // A preview in the EXIF data has an end mark of its own.
    let preview = [&[0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9][..], &JPEG[2..JPEG.len() / 3]].concat();
    assert!(refused(&objects, &preview).contains("end mark"));
    let trailing = [JPEG, b"what a camera appends"].concat();
    assert!(prepare(&objects, &trailing).is_ok());
}
