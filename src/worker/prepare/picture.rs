//! From a JPEG or PNG to a picture tensor.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Luma, Pixel, Rgb};

use super::{Geometry, filled, undecodable};
use crate::fault::Fault;
use crate::model::manifest::{Colour, Fit, Layout, Picture, Port, Size};
use crate::tensor::{DataType, Tensor};

/// Longest side of a picture, in pixels.
pub(super) const SIDE_MAX: u32 = 8192;
/// Most memory that decoding one may take, in bytes.
pub(super) const DECODED_BYTES_MAX: u64 = 64 * 1024 * 1024;

pub(super) fn prepare(picture: &Picture, port: &Port, medium: &[u8]) -> Result<(Tensor, Geometry), Fault> {
    let image = decode(medium)?;
    let place = Place::of(picture, image.width(), image.height());
    let geometry = place.geometry(image.width(), image.height());
    let pixels = match picture.colour {
        Colour::Gray => compose::<Luma<u8>>(&image.into_luma8(), &place, Luma([picture.border])).into_raw(),
        Colour::Rgb | Colour::Bgr => {
            let border = Rgb([picture.border; 3]);
            compose::<Rgb<u8>>(&image.into_rgb8(), &place, border).into_raw()
        }
    };
    Ok((tensor(picture, port, &place, &pixels)?, geometry))
}

fn decode(medium: &[u8]) -> Result<DynamicImage, Fault> {
    let broken = |error: image::ImageError| {
        undecodable(
            "picture",
            format!(
                "{error} in {} bytes (a JPEG or PNG of at most {SIDE_MAX} × {SIDE_MAX} pixels is needed, and of \
                 {DECODED_BYTES_MAX} bytes once decoded)",
                medium.len()
            ),
        )
    };
    let mut reader =
        ImageReader::new(Cursor::new(medium)).with_guessed_format().map_err(|error| undecodable("picture", error))?;
    if reader.format() == Some(ImageFormat::Jpeg) && is_cut_off(medium) {
        let why = format!("the JPEG ends after {} bytes without its end mark: send the whole file", medium.len());
        return Err(undecodable("picture", why));
    }
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    // The JPEG decoder does not count its output against the limit before it takes the memory.
    if decoder.total_bytes() > DECODED_BYTES_MAX {
        let (width, height) = decoder.dimensions();
        let why = format!(
            "{width} × {height} pixels are {} bytes decoded, at most {DECODED_BYTES_MAX} are allowed: send it smaller",
            decoder.total_bytes()
        );
        return Err(undecodable("picture", why));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    if image.width() == 0 || image.height() == 0 {
        return Err(undecodable("picture", "it has no pixels"));
    }
    image.apply_orientation(orientation);
    Ok(image)
}

/// Whether a JPEG has pixels but not its end mark (EOI). The decoder would fill what is missing with grey, and the
/// network would look at that.
fn is_cut_off(jpeg: &[u8]) -> bool {
    // In the pixels FF stands before a zero or a restart mark, so FF D9 there is the end; before them (a preview in the
    // EXIF data) it is not. Everything before the pixels is segments, each with its length.
    let mut at = 2;
    while let Some(&[0xff, marker, high, low]) = jpeg.get(at..).and_then(|rest| rest.first_chunk()) {
        at += match marker {
            // A byte that fills, a mark without a segment.
            0xff => 1,
            0x01 | 0xd0..=0xd7 => 2,
            _ => 2 + usize::from(u16::from_be_bytes([high, low])),
        };
        if marker == 0xda {
            return !jpeg.get(at..).is_some_and(|pixels| pixels.windows(2).any(|pair| pair == [0xff, 0xd9]));
        }
    }
    // No pixels at all: what is wrong with it is for the decoder to say.
    false
}

/// Where the picture lies on the canvas that the network sees, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    canvas: (u32, u32),
    content: (u32, u32),
    corner: (u32, u32),
}

impl Place {
    fn of(picture: &Picture, width: u32, height: u32) -> Self {
        let (canvas, natural) = match picture.size {
            Size::Fixed { width: columns, height: rows } => {
                let factor = ratio(columns, width).min(ratio(rows, height));
                ((columns, rows), scaled(width, height, factor, (columns, rows)))
            }
            Size::Within { side_max, multiple_of } => {
                let factor = ratio(side_max, width.max(height)).min(1.0);
                let natural = scaled(width, height, factor, (side_max, side_max));
                ((natural.0.next_multiple_of(multiple_of), natural.1.next_multiple_of(multiple_of)), natural)
            }
            Size::Height { height: rows, width_max, multiple_of } => {
                let factor = ratio(rows, height).min(ratio(width_max, width));
                let natural = scaled(width, height, factor, (width_max, rows));
                ((natural.0.next_multiple_of(multiple_of), rows), natural)
            }
        };
        let (content, corner) = match picture.fit {
            Fit::Stretch => (canvas, (0, 0)),
            Fit::Pad => (natural, (0, 0)),
            Fit::Letterbox => (natural, ((canvas.0 - natural.0) / 2, (canvas.1 - natural.1) / 2)),
        };
        Self { canvas, content, corner }
    }

    fn geometry(&self, width: u32, height: u32) -> Geometry {
        #[expect(clippy::cast_possible_truncation, reason = "a ratio of sides of at most 8192 fits well")]
        let scale = |content: u32, side: u32| ratio(content, side) as f32;
        #[expect(clippy::cast_precision_loss, reason = "at most 2048")]
        let offset = |pixels: u32| pixels as f32;
        Geometry::Picture {
            width,
            height,
            network_width: self.canvas.0,
            network_height: self.canvas.1,
            scale_x: scale(self.content.0, width),
            scale_y: scale(self.content.1, height),
            left: offset(self.corner.0),
            top: offset(self.corner.1),
        }
    }
}

fn ratio(to: u32, from: u32) -> f64 {
    f64::from(to) / f64::from(from.max(1))
}

/// Both sides times the factor, rounded half up, at least one pixel and at most `most`.
fn scaled(width: u32, height: u32, factor: f64, most: (u32, u32)) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a u32 right after")]
    let side = |side: u32, most: u32| ((f64::from(side) * factor + 0.5).floor() as u32).clamp(1, most);
    (side(width, most.0), side(height, most.1))
}

type Canvas<P> = image::ImageBuffer<P, Vec<u8>>;

fn compose<P: Pixel<Subpixel = u8> + 'static>(image: &Canvas<P>, place: &Place, border: P) -> Canvas<P> {
    let (width, height) = place.content;
    let content = if image.dimensions() == place.content {
        image.clone()
    } else {
        imageops::resize(image, width, height, FilterType::Triangle)
    };
    if place.content == place.canvas {
        return content;
    }
    let mut canvas = Canvas::from_pixel(place.canvas.0, place.canvas.1, border);
    imageops::replace(&mut canvas, &content, i64::from(place.corner.0), i64::from(place.corner.1));
    canvas
}

fn tensor(picture: &Picture, port: &Port, place: &Place, pixels: &[u8]) -> Result<Tensor, Fault> {
    let channels = picture.colour.channels();
    let (columns, rows) = (side(place.canvas.0), side(place.canvas.1));
    let shape = match picture.layout {
        Layout::Nchw => vec![1, channels, rows, columns],
        Layout::Nhwc => vec![1, rows, columns, channels],
    };
    if port.datatype == DataType::Uint8 {
        let mut data = Vec::with_capacity(pixels.len());
        arrange(picture, pixels, |_, pixel| data.push(pixel));
        return filled(port, DataType::Uint8, shape, data);
    }
    let mut data = Vec::with_capacity(pixels.len() * size_of::<f32>());
    arrange(picture, pixels, |channel, pixel| {
        let value = (f32::from(pixel) * picture.scale - picture.mean[channel]) / picture.std[channel];
        data.extend_from_slice(&value.to_le_bytes());
    });
    filled(port, DataType::Fp32, shape, data)
}

/// Visits channel and value of every pixel in the order of the tensor.
fn arrange(picture: &Picture, pixels: &[u8], mut visit: impl FnMut(usize, u8)) {
    // Channel of the tensor → channel of the pixel.
    let order: &[usize] = match picture.colour {
        Colour::Rgb => &[0, 1, 2],
        Colour::Bgr => &[2, 1, 0],
        Colour::Gray => &[0],
    };
    match picture.layout {
        Layout::Nchw => {
            for (channel, from) in order.iter().enumerate() {
                pixels.iter().skip(*from).step_by(order.len()).for_each(|pixel| visit(channel, *pixel));
            }
        }
        Layout::Nhwc => {
            for pixel in pixels.chunks_exact(order.len()) {
                order.iter().enumerate().for_each(|(channel, from)| visit(channel, pixel[*from]));
            }
        }
    }
}

fn side(pixels: u32) -> usize {
    usize::try_from(pixels).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(size: Size, fit: Fit) -> Picture {
        Picture {
            size,
            fit,
            layout: Layout::Nchw,
            colour: Colour::Rgb,
            scale: 1.0,
            mean: [0.0; 3],
            std: [1.0; 3],
            border: 0,
        }
    }

    #[test]
    fn letterbox_centres_what_keeps_its_shape() {
        let place = Place::of(&picture(Size::Fixed { width: 416, height: 416 }, Fit::Letterbox), 600, 400);
        assert_eq!(place, Place { canvas: (416, 416), content: (416, 277), corner: (0, 69) });
    }

    #[test]
    fn stretch_fills_the_canvas() {
        let place = Place::of(&picture(Size::Fixed { width: 100, height: 50 }, Fit::Stretch), 7, 9);
        assert_eq!(place, Place { canvas: (100, 50), content: (100, 50), corner: (0, 0) });
    }

    #[test]
    fn within_never_enlarges_and_rounds_up() {
        let within = Size::Within { side_max: 640, multiple_of: 32 };
        let place = Place::of(&picture(within, Fit::Pad), 451, 300);
        assert_eq!(place, Place { canvas: (480, 320), content: (451, 300), corner: (0, 0) });
        let place = Place::of(&picture(within, Fit::Pad), 1280, 1);
        assert_eq!(place, Place { canvas: (640, 32), content: (640, 1), corner: (0, 0) });
    }

    #[test]
    fn a_line_of_text_keeps_its_height() {
        let line = Size::Height { height: 48, width_max: 320, multiple_of: 8 };
        assert_eq!(Place::of(&picture(line, Fit::Pad), 100, 24).content, (200, 48));
        let long = Place::of(&picture(line, Fit::Pad), 4000, 48);
        assert_eq!((long.canvas, long.content), ((320, 48), (320, 4)));
    }
}
