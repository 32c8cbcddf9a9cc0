//! Good models, changed at random: bits, bytes and runs of them, numbers made extreme, parts cut out and doubled.

/// Longest run that is cut out, doubled or overwritten.
const RUN_MAX: u64 = 64;

/// Changes a file in up to three places; `random` gives the numbers, so the same numbers give the same file.
///
/// Half of the changes fall into the first and last four thousand bytes or so, where graphs keep what is not weights.
pub(crate) fn mutate(file: &[u8], random: &mut dyn FnMut() -> u64) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..=random() % 3 {
        change(&mut file, random);
    }
    file
}

fn change(file: &mut Vec<u8>, random: &mut dyn FnMut() -> u64) {
    let at = place(file, random);
    let length = usize::try_from(random() % RUN_MAX).expect("a small number");
    let end = (at + length).min(file.len());
    match random() % 16 {
        // A bit; most often, for it leaves most of the file what it was.
        0..=9 => {
            if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << (random() % 8);
            }
        }
        10..=11 => {
            if let Some(byte) = file.get_mut(at) {
                *byte = [0, 1, 0x7f, 0x80, 0xff][usize::try_from(random() % 5).expect("a small number")];
            }
        }
        12 => drop(file.drain(at..end)),
        13 => {
            let run = file[at..end].to_vec();
            file.splice(at..at, run);
        }
        14 => file[at..end].fill_with(|| random().to_le_bytes()[0]),
        // The largest numbers that protobuf has.
        _ => {
            let number: &[u8] = match random() % 3 {
                0 => &[0xff, 0xff, 0xff, 0xff, 0x07],
                1 => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
                _ => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            };
            file.splice(at..(at + 1).min(file.len()), number.iter().copied());
        }
    }
}

fn place(file: &[u8], random: &mut dyn FnMut() -> u64) -> usize {
    const EDGE: u64 = 4_096;
    let length = file.len() as u64;
    let anywhere = random() % (length + 1);
    let place = match random() % 4 {
        0 => anywhere % EDGE.min(length + 1),
        1 => length - anywhere % EDGE.min(length + 1),
        _ => anywhere,
    };
    usize::try_from(place).expect("a place in memory is a usize")
}
