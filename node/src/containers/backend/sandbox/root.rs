//! The root file system of a sandbox: built on an empty tmpfs from read-only pieces of the host, then made `/`.
//!
//! Runs as process 1 in a new mount namespace, while the host's files are still there.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, PermissionsExt, symlink},
        },
    },
    path::{Path, PathBuf},
};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, mount_remount, unmount,
};

use super::{
    control::Setup,
    spec::{ReadOnlyPath, User, WORK_DIR},
    sys,
};

/// Folders of the system; absent ones are left out and links stay links.
const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store"];

/// What programs need of `/etc`: the dynamic linker, certificates, name services. None of it is private to the host.
const ETC: [&str; 20] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/mime.types",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/cert.pem",
    "/etc/ca-certificates",
    "/etc/pki/ca-trust/extracted",
    "/etc/pki/tls/certs",
    "/etc/crypto-policies",
    "/etc/fonts",
];

const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Files of `/proc` that tell about the machine's kernel or keys.
const MASKED: [&str; 7] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kallsyms",
    "/proc/timer_list",
    "/proc/sysrq-trigger",
    "/proc/slabinfo",
];

/// Parts of `/proc` that steer the machine; they are root's on the host, and no mount option should be all that protects them.
const STEERING: [&str; 5] = ["/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi"];

/// Bound of a prepared sandbox's files, until a container adopts it.
const INITIAL_SCRATCH: u64 = 1 << 20;

type Step = (&'static str, io::Error);

/// Builds the root and enters it. Afterwards nothing of the host can be named that is not listed above.
///
/// Returns a `/proc` of the sandbox that shows every process, for the node alone: it is mounted nowhere.
pub(super) fn enter(setup: &Setup) -> Result<OwnedFd, Step> {
    let root = setup.mount_point.as_path();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(at("make the mounts private"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", root, "tmpfs", flags, Some(c"mode=0755,size=1m")).map_err(at("mount the root"))?;
    for path in SYSTEM {
        system(root, Path::new(path)).map_err(at("show the system"))?;
    }
    for path in ETC {
        if Path::new(path).exists() {
            show(root, &ReadOnlyPath::same(path)).map_err(at("show /etc"))?;
        }
    }
    for entry in &setup.read_only {
        show(root, entry).map_err(at("show the configured paths"))?;
    }
    etc(root, setup).map_err(at("write /etc"))?;
    devices(root).map_err(at("make /dev"))?;
    scratch(root, setup.user).map_err(at("make the scratch folders"))?;
    let processes = proc(root).map_err(at("mount /proc"))?;
    switch(root).map_err(at("change the root"))?;
    for path in MASKED {
        if Path::new(path).exists() {
            mount_bind_recursive("/dev/null", path).map_err(at("mask parts of /proc"))?;
        }
    }
    for path in STEERING {
        if Path::new(path).exists() {
            mount_bind_recursive(path, path).map_err(at("protect parts of /proc"))?;
            sys::make_read_only(Path::new(path), true).map_err(|error| ("protect parts of /proc", error))?;
        }
    }
    sys::make_read_only(Path::new("/"), false).map_err(|error| ("protect the root", error))?;
    Ok(processes)
}

/// Changes how much the container may store in its folders together.
pub(super) fn resize_scratch(bytes: u64) -> io::Result<()> {
    // One inode costs about a page of the kernel's memory, which counts too; more files than pages are of no use.
    let options = format!("size={bytes},nr_inodes={}", (bytes / 4096).max(1024));
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    Ok(mount_remount("/tmp", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?)
}

fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Step {
    move |error| (step, error.into())
}

/// `path` of the host, at the same place below `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_folders(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// A merged-usr system has links at its top, such as `/bin` -> `usr/bin`.
fn system(root: &Path, path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => symlink(fs::read_link(path)?, below(root, path)),
        Ok(_) => show(root, &ReadOnlyPath::same(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn show(root: &Path, entry: &ReadOnlyPath) -> io::Result<()> {
    let place = below(root, &entry.inside);
    let describe = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", entry.host.display()));
    if entry.inside.components().any(|part| part.as_os_str().as_bytes() == b"..") {
        return Err(describe(io::ErrorKind::InvalidInput.into()));
    }
    let metadata = fs::metadata(&entry.host).map_err(describe)?;
    if metadata.is_dir() {
        make_folders(&place)?;
    } else {
        make_folders(place.parent().unwrap_or(root))?;
        // A file may already be there through a folder shown before, which is read-only by now.
        if !place.exists() {
            fs::File::create(&place)?;
        }
    }
    mount_bind_recursive(&entry.host, &place).map_err(|error| describe(error.into()))?;
    sys::make_read_only(&place, true).map_err(describe)
}

fn etc(root: &Path, setup: &Setup) -> io::Result<()> {
    let User { uid, gid } = setup.user;
    let folder = root.join("etc");
    make_folders(&folder)?;
    let passwd = format!(
        "root:x:0:0:root:/:/bin/sh\naction:x:{uid}:{gid}:action:{WORK_DIR}:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    );
    for (name, content) in [
        ("passwd", passwd.as_str()),
        ("group", &format!("root:x:0:\naction:x:{gid}:\nnogroup:x:65534:\n")),
        ("hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost\n"),
        ("resolv.conf", &setup.resolv_conf),
    ] {
        fs::write(folder.join(name), content)?;
    }
    if !folder.join("nsswitch.conf").exists() {
        fs::write(folder.join("nsswitch.conf"), "hosts: files dns\n")?;
    }
    Ok(())
}

fn devices(root: &Path) -> io::Result<()> {
    let folder = root.join("dev");
    make_folders(&folder.join("shm"))?;
    for name in DEVICES {
        // Bound, not made: `mknod` is refused in a user namespace.
        let place = folder.join(name);
        fs::File::create(&place)?;
        mount_bind_recursive(Path::new("/dev").join(name), &place)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, folder.join(name))?;
    }
    Ok(())
}

/// One tmpfs for all that the container writes, so that one bound holds for everything.
fn scratch(root: &Path, user: User) -> io::Result<()> {
    let whole = root.join("tmp");
    make_folders(&whole)?;
    let options = std::ffi::CString::new(format!("mode=0755,size={INITIAL_SCRATCH}")).map_err(io::Error::other)?;
    mount("tmpfs", &whole, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
    for (name, place, mode) in [("action", WORK_DIR, 0o700), ("shm", "/dev/shm", 0o1777), ("tmp", "/tmp", 0o1777)] {
        let part = whole.join(name);
        fs::create_dir(&part)?;
        fs::set_permissions(&part, fs::Permissions::from_mode(mode))?;
        std::os::unix::fs::chown(&part, Some(user.uid), Some(user.gid))?;
        let place = below(root, Path::new(place));
        make_folders(&place)?;
        // The last of them covers the whole, which is not reachable from then on.
        mount_bind_recursive(&part, &place)?;
    }
    for folder in ["run", "var", "home", "root"] {
        make_folders(&root.join(folder))?;
    }
    symlink("/tmp", root.join("var/tmp"))
}

/// A fresh `/proc` shows the sandbox's processes; `hidepid` keeps process 1 out of sight. The node's own is without it.
fn proc(root: &Path) -> io::Result<OwnedFd> {
    let place = root.join("proc");
    make_folders(&place)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", &place, "proc", flags, None)?;
    let processes = fs::File::open(&place)?;
    unmount(&place, UnmountFlags::DETACH)?;
    mount("proc", &place, "proc", flags, Some(c"hidepid=2"))?;
    Ok(processes.into())
}

fn switch(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    // The old root lands on top of the new one and is taken away from there.
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}
