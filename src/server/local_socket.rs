//! The Unix socket for administration on the machine itself: whoever may open it is trusted.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

/// The socket while it is made.
const HIDDEN: &str = "s";

/// Binds the socket with the given mode. A socket that nobody listens on any more is replaced.
///
/// # Errors
/// Another process listens there, or the folder is not writable.
pub(super) async fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if path.exists() && UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens on it",
        ));
    }
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    bind_in(&folder.join(making_name(path)), path, mode)
}

/// Name of the folder, beside the socket, in which it is made: nobody else may look into it.
fn making_name(path: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    name
}

/// Makes the socket in a folder of its own and moves it to its place with its mode set: between the
/// two, anybody whom the umask lets in could connect. The umask itself belongs to all threads.
fn bind_in(making: &Path, path: &Path, mode: u32) -> io::Result<UnixListener> {
    if making.exists() {
        // An earlier start was cut short.
        let leftover = making.join(HIDDEN);
        if leftover.exists() {
            fs::remove_file(leftover)?;
        }
        fs::remove_dir(making)?;
    }
    fs::DirBuilder::new().mode(0o700).create(making)?;
    let hidden = making.join(HIDDEN);
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))?;
    fs::rename(&hidden, path)?;
    fs::remove_dir(making)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_can_reach_the_socket_before_its_mode_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let (making, path) = (
            folder.path().join(".s.sock.new"),
            folder.path().join("s.sock"),
        );
        // Where it cannot be moved to its place, it is left where it was made.
        fs::create_dir(&path).unwrap();
        bind_in(&making, &path, 0o777).unwrap_err();
        let mode = fs::metadata(&making).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(making.join("s").exists());
        fs::remove_dir(&path).unwrap();
        bind_in(&making, &path, 0o777).unwrap();
        assert!(path.exists() && !making.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("replica.sock");
        let first = bind(&path, 0o700).await.unwrap();
        let refused = bind(&path, 0o700).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = bind(&path, 0o750).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
        drop(second);
    }
}
