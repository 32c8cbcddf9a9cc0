//! With which kernels does the engine compute here, and what must it be told to choose well?
//!
//! The engine chooses by what it reads of the processor, once, before the worker locks itself in. Two things it cannot see:
//! which core the worker will run on, and anything at all where `/proc/cpuinfo` is hidden or another machine's. The agent
//! knows both, from the kernel's own list of extensions and the core's register, and tells the worker as it starts it.

use std::fmt;
use std::sync::OnceLock;

use super::linalg::mmm::Query;
use super::linalg::{self, MmmDispatch};
use super::{DatumType, engine_kind};
use crate::sys::processor::{self, CoreId};

/// What the engine computes matrix products with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// The processor's architecture and those of its extensions that the engine makes use of, in the engine's words.
    pub processor: String,
    /// The family of cores that its kernels are tuned for.
    pub kind: String,
    /// The kernel for each sort of product of middling size.
    pub products: Vec<(&'static str, String)>,
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, kind {}", self.processor, self.kind)?;
        self.products.iter().try_for_each(|(product, kernel)| write!(f, ", {product} {kernel}"))
    }
}

/// Sorts of products: what is multiplied, and the columns of the right side.
const PRODUCTS: [(&str, DatumType, usize); 6] = [
    ("f32", DatumType::F32, 128),
    ("f32 by vector", DatumType::F32, 1),
    ("f16", DatumType::F16, 128),
    ("f16 by vector", DatumType::F16, 1),
    ("int8", DatumType::I32, 128),
    ("int8 by vector", DatumType::I32, 1),
];

/// Which kernels this process computes with.
pub fn kernels() -> Kernels {
    let isa = linalg::isa::native();
    let dispatch = MmmDispatch::native();
    let products = PRODUCTS.map(|(product, number, columns)| (product, choice(dispatch, number, columns)));
    Kernels { processor: format!("{isa:?}"), kind: kind().to_owned(), products: products.to_vec() }
}

/// The kernel for a product of middling size: cost models choose by size.
pub(super) fn choice(dispatch: &MmmDispatch, number: DatumType, columns: usize) -> String {
    let query = Query::plain(number, Some(128), Some(256), Some(columns));
    dispatch.pick(&query).map_or_else(|| "none".to_owned(), |(kernel, _, _)| kernel.name().to_owned())
}

/// The family of cores, looked up once.
pub(super) fn kind() -> &'static str {
    static KIND: OnceLock<String> = OnceLock::new();
    KIND.get_or_init(engine_kind)
}

/// Arm's number as the designer of a core.
const ARM: u8 = 0x41;
/// Extensions by architecture: bits of `AT_HWCAP` (`asm/hwcap.h` of the kernel).
const AARCH64_FPHP: u64 = 1 << 9;
const AARCH64_ASIMDHP: u64 = 1 << 10;
const ARM_NEON: u64 = 1 << 12;

/// What a worker on that core is told about its processor, as variables of its environment; `None`: on any core.
pub fn environment(core: Option<usize>) -> Vec<(&'static str, String)> {
    told(std::env::consts::ARCH, processor::extensions(), core.and_then(processor::core_id))
}

/// The engine reads one part number for the whole machine, the highest: where cores differ, it is that of another core.
pub(super) fn told(architecture: &str, extensions: u64, core: Option<CoreId>) -> Vec<(&'static str, String)> {
    let mut told = Vec::new();
    match architecture {
        "aarch64" => {
            let half = AARCH64_FPHP | AARCH64_ASIMDHP;
            if extensions & half == half {
                told.push(("TRACT_CPU_ISA", "+fp16".to_owned()));
            }
            if let Some(CoreId { implementer: ARM, part }) = core {
                told.push(("TRACT_CPU_AARCH64_OVERRIDE_CPU_PART", format!("{part:#05x}")));
            }
        }
        "arm" => told.push(("TRACT_CPU_ARM32_NEON", (extensions & ARM_NEON != 0).to_string())),
        // The others are asked by instruction, which nothing can hide.
        _ => {}
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(not(target_arch = "aarch64"))]
    use crate::worker::infer::linalg::isa::{Arch, IsaSet};

    #[cfg(not(target_arch = "arm"))]
    fn kernel(kernels: &Kernels, product: &str) -> String {
        let found = kernels.products.iter().find(|(name, _)| *name == product);
        found.unwrap_or_else(|| panic!("no product {product}")).1.clone()
    }

    /// How the names of a processor's kernels may begin, by what the processor, not the engine, says of it.
    type Expected = Vec<(&'static str, &'static [&'static str])>;

    #[cfg(target_arch = "x86_64")]
    fn expected() -> Expected {
        // Which of the two is faster differs among the processors with both.
        let f32: &[&str] = if std::is_x86_feature_detected!("avx512f") {
            &["avx512_mmm_f32_", "fma_mmm_f32_"]
        } else if std::is_x86_feature_detected!("fma") {
            &["fma_mmm_f32_"]
        } else {
            return vec![];
        };
        vec![("f32", f32), ("f32 by vector", f32)]
    }

    #[cfg(target_arch = "aarch64")]
    fn expected() -> Expected {
        let (f32, int8): (&[&str], &[&str]) = (&["arm64simd_mmm_f32_"], &["arm64simd_mmm_i32_"]);
        vec![("f32", f32), ("f32 by vector", f32), ("int8", int8), ("int8 by vector", int8)]
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn expected() -> Expected {
        vec![("f32", &["armv7neon_mmm_f32_"]), ("int8", &["armv7neon_mmm_i32_"])]
    }

    /// On 32-bit ARM the engine must be told first, which only a start of the process can do.
    #[cfg(not(target_arch = "arm"))]
    #[test]
    fn products_are_computed_by_the_vector_unit() {
        let kernels = kernels();
        for (product, prefixes) in expected() {
            let found = kernel(&kernels, product);
            let right = prefixes.iter().any(|prefix| found.starts_with(prefix));
            assert!(right, "{product} is computed by {found}, not by {prefixes:?}: {kernels}");
        }
    }

    /// Of the 64-bit ARMs there is none without NEON.
    #[cfg(not(target_arch = "aarch64"))]
    #[test]
    fn a_processor_without_its_extensions_would_be_noticed() {
        let architecture = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Arm };
        let bare = MmmDispatch::for_isa(IsaSet::of_arch(architecture));
        for (product, prefixes) in expected() {
            let (_, number, columns) = PRODUCTS.into_iter().find(|(name, _, _)| *name == product).unwrap();
            let found = choice(&bare, number, columns);
            let right = prefixes.iter().any(|prefix| found.starts_with(prefix));
            assert!(!right, "{product}: {found} without any extension");
        }
    }

    #[test]
    fn a_worker_is_told_of_the_core_it_will_run_on() {
        let arm = |part| Some(CoreId { implementer: 0x41, part });
        let part = "TRACT_CPU_AARCH64_OVERRIDE_CPU_PART";
        assert_eq!(told("aarch64", 0, arm(0xd03)), [(part, "0xd03".to_owned())]);
        assert_eq!(told("aarch64", 0, arm(0x0d4)), [(part, "0x0d4".to_owned())]);
        // A part number means something together with its designer only.
        assert!(told("aarch64", 0, Some(CoreId { implementer: 0x48, part: 0xd03 })).is_empty());
        assert!(told("aarch64", 0, None).is_empty());
        let both = [("TRACT_CPU_ISA", "+fp16".to_owned()), (part, "0xd0c".to_owned())];
        assert_eq!(told("aarch64", 0x10_0fff, arm(0xd0c)), both);
        let vectors_alone = told("aarch64", AARCH64_ASIMDHP, None);
        assert!(vectors_alone.is_empty(), "half precision must be there for single numbers too: {vectors_alone:?}");
    }

    #[test]
    fn whether_a_32_bit_arm_has_neon_is_told_by_the_kernel() {
        let told = |extensions| told("arm", extensions, None);
        assert_eq!(told(ARM_NEON), [("TRACT_CPU_ARM32_NEON", "true".to_owned())]);
        assert_eq!(told(!ARM_NEON), [("TRACT_CPU_ARM32_NEON", "false".to_owned())]);
    }

    #[test]
    fn other_architectures_need_not_be_told() {
        assert!(told("x86_64", u64::MAX, Some(CoreId { implementer: 0x41, part: 0xd03 })).is_empty());
    }
}
