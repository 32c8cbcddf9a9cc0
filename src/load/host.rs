//! What kind of machine is this? Slow facts for the inventory; the only file that names `sysinfo`.

use std::path::{Path, PathBuf};

use sysinfo::{Components, CpuRefreshKind, Disks, MemoryRefreshKind, RefreshKind, System};

/// Slow facts of the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostFacts {
    /// Logical cores online; 0 when it cannot be told.
    pub cores: usize,
    /// Main memory; 0 when it cannot be told.
    pub memory_bytes: u64,
    /// Memory that can be had without swapping.
    pub memory_available_bytes: u64,
    /// Free space of the file system that holds the state; `None` when it cannot be told.
    pub disk_free_bytes: Option<u64>,
    /// Hottest sensor; `None` without sensors.
    pub temperature_c: Option<f32>,
    /// Release of the kernel; empty when unknown.
    pub kernel: String,
    /// Architecture, as the kernel names it; empty when unknown.
    pub machine: String,
    /// Name of the host; empty when unknown.
    pub hostname: String,
}

/// Reads the facts of the host. What a host refuses to tell is left out.
#[derive(Debug)]
pub struct Host {
    system: Option<System>,
    components: Option<Components>,
    disks: Option<Disks>,
    state: PathBuf,
}

impl Host {
    /// `state` is a path whose file system's free space is of interest.
    pub fn new(state: &Path) -> Self {
        // Mount points are compared with a path without links.
        let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
        let system = System::new_with_specifics(RefreshKind::nothing()).ok();
        Self { system, components: Components::new().ok(), disks: Disks::new().ok(), state }
    }

    /// Reads them anew. Takes milliseconds: not for the sentinel.
    pub fn read(&mut self) -> HostFacts {
        let mut facts = HostFacts {
            disk_free_bytes: self.disk_free_bytes(),
            temperature_c: self.temperature_c(),
            kernel: System::kernel_version().unwrap_or_default(),
            machine: System::cpu_arch(),
            hostname: System::host_name().unwrap_or_default(),
            ..HostFacts::default()
        };
        if let Some(system) = &mut self.system {
            system.refresh_cpu_list(CpuRefreshKind::nothing());
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            facts.cores = system.cpus().len();
            facts.memory_bytes = system.total_memory();
            facts.memory_available_bytes = system.available_memory();
        }
        facts
    }

    fn disk_free_bytes(&mut self) -> Option<u64> {
        let disks = self.disks.as_mut()?;
        disks.refresh(true);
        let holders = disks.iter().filter(|disk| self.state.starts_with(disk.mount_point()));
        let holder = holders.max_by_key(|disk| disk.mount_point().components().count())?;
        Some(holder.available_space())
    }

    fn temperature_c(&mut self) -> Option<f32> {
        let components = self.components.as_mut()?;
        components.refresh(true);
        let temperatures = components.iter().filter_map(sysinfo::Component::temperature);
        temperatures.filter(|celsius| celsius.is_finite()).max_by(f32::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_host_make_sense() {
        let facts = Host::new(Path::new("/")).read();
        assert!(facts.cores >= 1);
        assert!(facts.memory_bytes > 0 && facts.memory_available_bytes <= facts.memory_bytes);
        assert!(!facts.kernel.is_empty() && !facts.machine.is_empty());
        assert!(facts.temperature_c.is_none_or(f32::is_finite));
    }
}
