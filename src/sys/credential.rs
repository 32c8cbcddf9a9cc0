//! Who may read a secret's file? Its owner alone, or whom the service manager made a copy for.

use std::env;
use std::path::Path;

/// The permission bits of a secret's file that let others in; 0 when nobody else may read or write it.
///
/// What lies below `CREDENTIALS_DIRECTORY` is a copy that systemd made for this service (`LoadCredential=`). From version
/// 254 on it stays root's, and an access list lets the service's user read it: the mode then shows that list's mask as the
/// right of the group to read, which nobody has by it.
pub fn bits_for_others(path: &Path, mode: u32) -> u32 {
    bits_beside(path, mode, env::var_os("CREDENTIALS_DIRECTORY").as_deref().map(Path::new))
}

fn bits_beside(path: &Path, mode: u32, credentials: Option<&Path>) -> u32 {
    let is_copy = credentials.is_some_and(|folder| folder.is_absolute() && path.starts_with(folder));
    mode & if is_copy { 0o037 } else { 0o077 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_the_service_manager_may_show_the_mask_of_its_access_list_and_nothing_else() {
        let folder = Path::new("/run/credentials/neap.service");
        let (copy, own) = (folder.join("node.key"), Path::new("/etc/neap/node.key"));
        let beside = |path: &Path, mode| bits_beside(path, mode, Some(folder));
        for mode in [0o400, 0o600, 0o440] {
            assert_eq!(beside(&copy, mode), 0, "{mode:o}");
        }
        for mode in [0o460, 0o404, 0o444, 0o450, 0o442] {
            assert_ne!(beside(&copy, mode), 0, "{mode:o}");
        }
        assert_eq!(beside(own, 0o440), 0o040, "elsewhere the group may not read");
        assert_eq!(beside(Path::new("/run/credentials/neap.service.d/key"), 0o440), 0o040);
        assert_eq!(bits_beside(&copy, 0o440, None), 0o040, "without a service manager there are no copies");
        assert_eq!(bits_beside(&copy, 0o440, Some(Path::new(""))), 0o040);
    }
}
