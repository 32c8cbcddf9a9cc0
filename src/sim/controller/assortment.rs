//! What is there to submit? Samples of the installed models, as single jobs and as batches.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::model::golden::GoldenCase;
use crate::model::library::{Entry, Library};
use crate::sim::day::Random;
use crate::tensor::Tensor;
use crate::units::{Name, PACKET_BYTES_MAX};

/// Largest sample that is submitted, in bytes: base stations have thin backhaul.
const SAMPLE_BYTES_MAX: u64 = 512 * 1024;
/// Largest submit, in bytes of tensors; leaves room for the manifest in a packet.
const JOB_BYTES_MAX: usize = PACKET_BYTES_MAX / 2;
/// Items of a batch as long as the model's cost is unknown.
const BATCH_ITEMS_FIRST: u64 = 4;
/// Fewest and most items of a batch.
const BATCH_ITEMS: std::ops::RangeInclusive<u64> = 2..=40;
/// CPU time that a batch is to take: long enough to meet a busy period, short enough to end within the day.
const BATCH_CPU: Duration = Duration::from_millis(800);
/// Every so many jobs one is a batch.
const BATCH_EVERY: u64 = 3;
/// Most items of a batch that is to be as large as a message allows.
const LARGE_BATCH_ITEMS: u64 = 1000;
/// CPU time that such a batch is to take at most: a node gives up on a job that runs for minutes.
const LARGE_BATCH_CPU: Duration = Duration::from_secs(20);
/// Priorities given, 0 to this.
const PRIORITY_MAX: u64 = 9;

/// One thing a model can look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// What people call it: its file name.
    pub title: String,
    /// What a job carries.
    pub inputs: Vec<Tensor>,
    /// Whether the answer is to be interpreted.
    pub interpret: bool,
}

/// A model with its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Which model.
    pub model: Name,
    /// Its version.
    pub version: u32,
    /// At least one.
    pub samples: Vec<Sample>,
    /// Items of its next batch.
    batch_items: u64,
}

impl Offer {
    /// Samples of a model whose cost is not known yet.
    pub fn new(model: Name, version: u32, samples: Vec<Sample>) -> Self {
        Self { model, version, samples, batch_items: BATCH_ITEMS_FIRST }
    }
}

/// What to submit next.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Which model.
    pub model: Name,
    /// Its version.
    pub version: u32,
    /// Priority, 0 to 9.
    pub priority: u8,
    /// One for a single job, several for a batch.
    pub samples: Vec<Sample>,
}

/// Everything that can be submitted, and in which order.
#[derive(Clone, Debug)]
pub struct Assortment {
    offers: Vec<Offer>,
    random: Random,
    made: u64,
    batches: Batches,
}

/// How often a job is a batch, and how large batches get.
#[derive(Clone, Debug)]
struct Batches {
    every: u64,
    cpu: Duration,
    items_max: u64,
}

impl Assortment {
    /// Reads the samples of every model. Models without any usable sample are left out.
    pub fn read(library: &Library, seed: u64) -> Self {
        Self::new(library.entries().filter_map(offer).collect(), seed)
    }

    /// An assortment of these offers.
    pub fn new(offers: Vec<Offer>, seed: u64) -> Self {
        let batches = Batches { every: BATCH_EVERY, cpu: BATCH_CPU, items_max: *BATCH_ITEMS.end() };
        Self { offers, random: Random::new(seed), made: 0, batches }
    }

    /// Only that model, and only batches, as large as a message allows: work that a worker is never done with.
    #[must_use]
    pub fn only_batches_of(mut self, model: &Name) -> Self {
        self.offers.retain(|offer| offer.model == *model);
        self.batches = Batches { every: 1, cpu: LARGE_BATCH_CPU, items_max: LARGE_BATCH_ITEMS };
        self
    }

    /// How many models there are to choose from.
    pub fn models(&self) -> usize {
        self.offers.len()
    }

    /// The next job: models in turn, samples in turn, now and then a batch. `None` when there are no models.
    pub fn next_wish(&mut self) -> Option<Wish> {
        let count = u64::try_from(self.offers.len()).ok().filter(|count| *count > 0)?;
        let (turn, round) = (self.made % count, self.made / count);
        let offer = &self.offers[usize::try_from(turn).ok()?];
        // Which model gets the batch shifts by one each round, so that every model gets both kinds.
        let is_batch = (turn + round).is_multiple_of(self.batches.every);
        let wanted = if is_batch { offer.batch_items } else { 1 };
        let mut samples: Vec<Sample> = Vec::new();
        let mut bytes = 0;
        for item in 0..wanted {
            let index = usize::try_from(round + item).ok()? % offer.samples.len();
            let sample = &offer.samples[index];
            bytes += sample.bytes();
            if bytes > JOB_BYTES_MAX && !samples.is_empty() {
                break;
            }
            samples.push(sample.clone());
        }
        self.made += 1;
        let priority = u8::try_from(self.random.below(PRIORITY_MAX + 1)).unwrap_or(0);
        Some(Wish { model: offer.model.clone(), version: offer.version, priority, samples })
    }

    /// A job of that model took `cpu` for its `items`: batches of it are cut to size.
    pub fn learn(&mut self, model: &str, items: u32, cpu: Duration) {
        let Some(offer) = self.offers.iter_mut().find(|offer| offer.model.as_str() == model) else { return };
        // The first job pays for loading the model as well, so a batch grows with what is learnt later.
        let an_item = (cpu / items.max(1)).max(Duration::from_millis(1));
        let fits = u64::try_from(self.batches.cpu.as_nanos() / an_item.as_nanos()).unwrap_or(u64::MAX);
        offer.batch_items = fits.clamp(*BATCH_ITEMS.start(), self.batches.items_max);
    }
}

impl Sample {
    fn bytes(&self) -> usize {
        self.inputs.iter().map(|input| input.data.len()).sum()
    }
}

/// A model's media, or else its golden inputs.
fn offer(entry: &Arc<Entry>) -> Option<Offer> {
    let media = entry.manifest.prepare.as_ref().map(|prepare| {
        let files = entry.samples().unwrap_or_default();
        files.iter().filter_map(|file| medium(file, &prepare.accepts)).collect::<Vec<_>>()
    });
    let samples = media.filter(|samples| !samples.is_empty()).unwrap_or_else(|| goldens(entry));
    let Entry { manifest, .. } = &**entry;
    (!samples.is_empty()).then(|| Offer::new(manifest.name.clone(), manifest.version, samples))
}

/// One medium as a BYTES tensor; `None` when it cannot be read or is too large.
fn medium(file: &Path, accepts: &str) -> Option<Sample> {
    let size = fs::metadata(file).ok()?.len();
    let content = (size <= SAMPLE_BYTES_MAX).then(|| fs::read(file).ok())??;
    let title = file.file_name()?.to_string_lossy().into_owned();
    Some(Sample { title, inputs: vec![Tensor::bytes(accepts, &content)], interpret: true })
}

/// What a model without media is known to answer; interpreted where it can be.
fn goldens(entry: &Entry) -> Vec<Sample> {
    let mut cases = entry.goldens().unwrap_or_default();
    if cases.iter().any(|case| case.interpret) {
        cases.retain(|case| case.interpret);
    }
    let sample = |case: GoldenCase| {
        let stem = Path::new(&case.name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        Sample { title: stem.unwrap_or(case.name), inputs: case.inputs, interpret: case.interpret }
    };
    let mut samples: Vec<Sample> = cases.into_iter().map(sample).collect();
    samples.retain(|sample| sample.bytes() <= JOB_BYTES_MAX);
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assortment(models: &[&str], sample_bytes: usize) -> Assortment {
        let sample = |title: &str| Sample {
            title: title.to_owned(),
            inputs: vec![Tensor::bytes("image", &vec![7; sample_bytes])],
            interpret: true,
        };
        let offer = |name: &&str| Offer::new(name.parse().unwrap(), 1, vec![sample("a.jpg"), sample("b.jpg")]);
        Assortment::new(models.iter().map(offer).collect(), 1)
    }

    #[test]
    fn every_model_gets_single_jobs_and_batches() {
        let models = ["faces", "objects", "speech"];
        let mut assortment = assortment(&models, 10);
        let wishes: Vec<Wish> = (0..24).map(|_| assortment.next_wish().unwrap()).collect();
        for model in models {
            let own = || wishes.iter().filter(|wish| wish.model.as_str() == model);
            assert!(own().any(|wish| wish.samples.len() == 1), "{model} has no single job");
            assert!(own().any(|wish| wish.samples.len() > 1), "{model} has no batch");
        }
    }

    #[test]
    fn a_batch_stays_below_the_size_of_a_packet() {
        let mut assortment = assortment(&["objects"], 500 * 1024);
        let largest = (0..20).map(|_| assortment.next_wish().unwrap().samples.iter().map(Sample::bytes).sum::<usize>());
        assert!(largest.max().unwrap() <= JOB_BYTES_MAX);
    }

    #[test]
    fn batches_are_cut_to_what_an_item_costs() {
        let batch_after = |cpu_ms| {
            let mut assortment = assortment(&["objects"], 10);
            assortment.learn("objects", 2, Duration::from_millis(cpu_ms));
            (0..12).map(|_| assortment.next_wish().unwrap().samples.len()).max().unwrap()
        };
        assert_eq!([batch_after(0), batch_after(200), batch_after(60_000)], [40, 8, 2]);
    }

    #[test]
    fn a_stream_of_large_batches_has_one_model_and_nothing_else() {
        let mut assortment = assortment(&["faces", "objects"], 10_000).only_batches_of(&"objects".parse().unwrap());
        assortment.learn("objects", 2, Duration::from_millis(60));
        for _ in 0..5 {
            let wish = assortment.next_wish().unwrap();
            assert_eq!(wish.model.as_str(), "objects");
            assert!(wish.samples.len() > 100, "{} items", wish.samples.len());
        }
    }

    #[test]
    fn without_models_there_is_nothing_to_wish() {
        assert_eq!(Assortment::new(Vec::new(), 1).next_wish(), None);
    }
}
