//! Which certificates are in force, and are there new ones? Looks at the files now and then, and when it is asked to.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Settings;
use super::certificates::{Certificates, Whose};
use super::material::{Material, Stamps, stamps};
use crate::fault::Fault;

/// The files are looked at this often: three calls of stat(2).
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Keeps what the files held when they were last good.
#[derive(Debug)]
pub(in crate::link) struct Keeper {
    settings: Settings,
    host: String,
    shared: Certificates,
    material: Arc<Material>,
    /// Of the files as they were when they were last read, good or bad.
    read: Stamps,
    look_at: Instant,
}

impl Keeper {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(in crate::link) fn new(settings: Settings, host: &str, shared: Certificates) -> Result<Self, Vec<Fault>> {
        let read = stamps(&settings);
        let material = Arc::new(Material::read(&settings, host)?);
        let keeper =
            Self { settings, host: host.to_owned(), shared, material, read, look_at: Instant::now() + LOOK_EVERY };
        keeper.tell();
        Ok(keeper)
    }

    /// What is in force.
    pub(in crate::link) fn material(&self) -> Arc<Material> {
        Arc::clone(&self.material)
    }

    /// Waits until other certificates are in force than before. May be given up at any point.
    async fn changed(&mut self) {
        loop {
            tokio::select! {
                () = sleep_until(self.look_at) => {}
                () = self.shared.asked() => {}
            }
            self.look_at = Instant::now() + LOOK_EVERY;
            if self.look() {
                return;
            }
        }
    }

    /// Whether the files have changed for something that can be used, which is in force then.
    fn look(&mut self) -> bool {
        let found = stamps(&self.settings);
        if found == self.read {
            return false;
        }
        self.read = found;
        match Material::read(&self.settings, &self.host) {
            Ok(material) => {
                let is_new = !material.is_same_as(&self.material);
                self.material = Arc::new(material);
                self.tell();
                is_new
            }
            Err(faults) => {
                let why = faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ");
                self.shared.tell(|known| known.refused = Some(why));
                false
            }
        }
    }

    fn tell(&self) {
        self.shared.tell(|known| {
            known.refused = None;
            known.certificates.retain(|certificate| certificate.whose == Whose::Broker);
            known.certificates.extend(self.material.certificates().iter().cloned());
            known.certificates.sort_by_key(|certificate| certificate.whose);
        });
    }
}

/// Waits until other certificates are in force; for ever without TLS.
pub(in crate::link) async fn renewed(keeper: &mut Option<Keeper>) {
    match keeper {
        Some(keeper) => keeper.changed().await,
        None => pending().await,
    }
}
