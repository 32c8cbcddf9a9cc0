//! What can this processor do? As the kernel tells every process at its start, and of each core in a file.

use std::fs;
use std::path::Path;

/// Extensions of the instruction set, as the kernel hands them to every process (`AT_HWCAP`); their bits are the
/// architecture's own. Needs no file, and so is known in every container.
#[allow(clippy::useless_conversion, reason = "the kernel's word has 32 bits on 32-bit machines")]
pub fn extensions() -> u64 {
    // SAFETY: the call reads what the kernel put on this process's stack at its start; it gives 0 for what is not there.
    let bits = unsafe { libc::getauxval(libc::AT_HWCAP) };
    u64::from(bits)
}

/// Who made a core, and which core it is (`MIDR_EL1`); `None` on other architectures, or where the kernel does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreId {
    /// Who designed it; 0x41 is Arm.
    pub implementer: u8,
    /// Which of their cores it is.
    pub part: u16,
}

/// Of whose making that core is.
pub fn core_id(core: usize) -> Option<CoreId> {
    core_id_below(Path::new("/"), core)
}

fn core_id_below(root: &Path, core: usize) -> Option<CoreId> {
    let file = format!("sys/devices/system/cpu/cpu{core}/regs/identification/midr_el1");
    let text = fs::read_to_string(root.join(file)).ok()?;
    let midr = u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()?;
    let part = u16::try_from((midr >> 4) & 0xfff).ok()?;
    Some(CoreId { implementer: u8::try_from((midr >> 24) & 0xff).ok()?, part })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_known_by_its_register_and_nonsense_is_nobody() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/devices/system/cpu/cpu2/regs/identification");
        fs::create_dir_all(&folder).unwrap();
        let told = |text: &str| {
            fs::write(folder.join("midr_el1"), text).unwrap();
            core_id_below(root.path(), 2)
        };
        assert_eq!(told("0x00000000410fd034\n"), Some(CoreId { implementer: 0x41, part: 0xd03 }));
        assert_eq!(told("0x00000000413fd0c1\n"), Some(CoreId { implementer: 0x41, part: 0xd0c }));
        for nonsense in ["", "410fd034", "0x", "0xzz", "0x1410fd034410fd034"] {
            assert_eq!(told(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(core_id_below(root.path(), 3), None);
    }

    #[test]
    fn every_machine_that_we_serve_has_extensions() {
        assert_ne!(extensions(), 0);
    }
}
