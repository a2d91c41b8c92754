//! Memory, processes, weight and freezing through control groups: version 1, version 2, or both as this machine has them.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::spec::PIDS_LIMIT;

/// Weight of all containers together, per core, against the node and other processes, each of which weighs 1024. Left at
/// that, a hundred containers would share what one thread of the node gets, and stand still while it tidies its disk.
const SHARES_PER_CORE: u32 = 4096;

/// Where this node may make groups.
#[derive(Debug, Clone, Default)]
pub(super) struct Cgroups {
    memory: Option<Place>,
    pids: Option<Place>,
    cpu: Option<Place>,
    freezer: Option<Place>,
    /// Folders of this node, without repetition.
    folders: Vec<PathBuf>,
}

#[derive(Debug, Clone)]
struct Place {
    version: Version,
    folder: PathBuf,
}

impl Place {
    /// Sets the weight against other groups and against processes beside it; 1024 is a plain process.
    fn set_weight(&self, shares: u32) -> io::Result<()> {
        let shares = shares.clamp(2, 262_144);
        match self.version {
            Version::V1 => fs::write(self.folder.join("cpu.shares"), shares.to_string()),
            // As runc converts: 2..=262144 to 1..=10000.
            Version::V2 => {
                let weight = 1 + (u64::from(shares) - 2) * 9999 / 262_142;
                fs::write(self.folder.join("cpu.weight"), weight.to_string())
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The groups of one sandbox: their names; dropping it removes nothing.
#[derive(Debug, Clone)]
pub(super) struct Cgroup {
    memory: Option<Place>,
    cpu: Option<Place>,
    freezer: Option<Place>,
    folders: Vec<PathBuf>,
}

impl Cgroups {
    /// Makes this node's folders, named `node`, below the groups that the process is in; what is not writable is left out.
    pub(super) fn find(node: &str) -> Self {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut found = Self::default();
        for (version, controllers, mount) in hierarchies(&mounts) {
            let Some(path) = own_path(&own, version, &controllers) else { continue };
            let parents = candidates(version, &mount, path);
            let Some((folder, enabled)) =
                parents.iter().find_map(|parent| claim(version, parent, node, &controllers).ok())
            else {
                continue;
            };
            let mut used = false;
            for controller in enabled {
                let slot = match controller.as_str() {
                    "memory" => &mut found.memory,
                    "pids" => &mut found.pids,
                    "cpu" => &mut found.cpu,
                    "freezer" => &mut found.freezer,
                    _ => continue,
                };
                if slot.is_none() {
                    *slot = Some(Place { version, folder: folder.clone() });
                    used = true;
                }
            }
            if used {
                found.folders.push(folder);
            } else {
                let _ = fs::remove_dir(&folder);
            }
        }
        if let Some(cpu) = &found.cpu {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
            if let Err(error) = cpu.set_weight(cores.saturating_mul(SHARES_PER_CORE)) {
                tracing::warn!(%error, "containers together weigh no more than one process");
            }
        }
        found
    }

    pub(super) fn limits_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Makes the groups `name`, without a memory limit yet.
    pub(super) fn create(&self, name: &str) -> io::Result<Cgroup> {
        let own = |place: &Option<Place>| {
            place.as_ref().map(|place| Place { version: place.version, folder: place.folder.join(name) })
        };
        let group = Cgroup {
            memory: own(&self.memory),
            cpu: own(&self.cpu),
            freezer: own(&self.freezer),
            folders: self.folders.iter().map(|folder| folder.join(name)).collect(),
        };
        for folder in &group.folders {
            if let Err(error) = fs::create_dir(folder) {
                group.remove();
                return Err(error);
            }
        }
        if let Some(pids) = own(&self.pids)
            && let Err(error) = fs::write(pids.folder.join("pids.max"), PIDS_LIMIT.to_string())
        {
            group.remove();
            return Err(error);
        }
        Ok(group)
    }

    /// Kills and removes what a crashed node of this name left, wherever it was started from: its folders lie below its own group then.
    pub(super) fn remove_leftovers(node: &str) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folders: Vec<_> = hierarchies(&mounts).iter().flat_map(|(_, _, mount)| named(mount, node, 8)).collect();
        let groups: Vec<_> = folders.iter().flat_map(|folder| subfolders(folder)).collect();
        // A frozen process takes note of its end only when it thaws; in this order it does nothing in between.
        for group in &groups {
            signal_members(group);
        }
        for group in &groups {
            let _ = write_if_there(&group.join("freezer.state"), "THAWED");
        }
        for group in &groups {
            kill_members(group, None);
        }
        for folder in groups.iter().chain(&folders) {
            remove_folder(folder, Duration::from_secs(2));
        }
    }

    /// Removes the node's own folders; called when no sandbox is left.
    pub(super) fn remove(&self) {
        for folder in &self.folders {
            remove_folder(folder, Duration::from_millis(500));
        }
    }
}

impl Cgroup {
    /// Moves process `pid` (and what it will fork) into the groups.
    pub(super) fn add(&self, pid: i32) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
    }

    /// Files into which a process writes `0` to enter.
    pub(super) fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let open = |folder: &PathBuf| Ok(fs::OpenOptions::new().write(true).open(folder.join("cgroup.procs"))?.into());
        self.folders.iter().map(open).collect()
    }

    /// Limits memory, files in memory included, and sets the weight. Without swap a limit is a limit.
    pub(super) fn limit(&self, bytes: u64, cpu_shares: Option<u32>) -> io::Result<()> {
        if let Some(Place { version, folder }) = &self.memory {
            match version {
                Version::V1 => {
                    fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string())?;
                    write_if_there(&folder.join("memory.memsw.limit_in_bytes"), &bytes.to_string())?;
                }
                Version::V2 => {
                    fs::write(folder.join("memory.max"), bytes.to_string())?;
                    write_if_there(&folder.join("memory.swap.max"), "0")?;
                    write_if_there(&folder.join("memory.oom.group"), "1")?;
                }
            }
        }
        if let (Some(cpu), Some(shares)) = (&self.cpu, cpu_shares) {
            cpu.set_weight(shares)?;
        }
        Ok(())
    }

    /// Whether the kernel has killed one of its processes for want of memory.
    pub(super) fn killed_for_memory(&self) -> bool {
        let Some(Place { version, folder }) = &self.memory else { return false };
        let file = match version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }

    pub(super) fn can_freeze(&self) -> bool {
        self.freezer.is_some()
    }

    /// Freezes or thaws all processes; returns when it is done.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let Some(Place { version, folder }) = &self.freezer else { return Err(io::ErrorKind::Unsupported.into()) };
        let deadline = Instant::now() + Duration::from_secs(2);
        let v1 = (folder.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" });
        let v2 = (folder.join("cgroup.freeze"), if frozen { "1" } else { "0" });
        let (file, word) = if *version == Version::V1 { v1 } else { v2 };
        fs::write(&file, word)?;
        loop {
            let done = match version {
                Version::V1 => fs::read_to_string(&file)?.trim() == word,
                Version::V2 => fs::read_to_string(folder.join("cgroup.events"))?
                    .lines()
                    .any(|line| line == format!("frozen {word}")),
            };
            if done {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if *version == Version::V1 {
                // A fork in the middle makes the kernel forget the order.
                fs::write(&file, word)?;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Tells the processes to go on, if they are frozen, without waiting until they do.
    pub(super) fn thaw_soon(&self) {
        let (file, word) = match &self.freezer {
            Some(Place { version: Version::V1, folder }) => (folder.join("freezer.state"), "THAWED"),
            Some(Place { version: Version::V2, folder }) => (folder.join("cgroup.freeze"), "0"),
            None => return,
        };
        // The removal that follows sees what comes of it.
        let _ = fs::write(file, word);
    }

    /// Kills whatever is still in it. For containers without a process 1.
    pub(super) fn kill(&self) {
        if let Some(folder) = self.folders.first() {
            kill_members(folder, self.freezer.as_ref());
        }
    }

    /// Removes the groups, whose processes are dead or dying.
    pub(super) fn remove(&self) {
        for folder in &self.folders {
            remove_folder(folder, Duration::from_secs(2));
        }
    }
}

fn write_if_there(file: &Path, text: &str) -> io::Result<()> {
    if file.exists() { fs::write(file, text) } else { Ok(()) }
}

/// Kills the members of a group. Those of version 1's freezer take note of their end only when they thaw.
fn kill_members(folder: &Path, freezer: Option<&Place>) {
    if fs::write(folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Until nothing is left: processes fork while we read. Bounded, since a fork bomb is limited by `pids.max`.
    for _ in 0..64 {
        if signal_members(folder) == 0 {
            return;
        }
        if let Some(Place { version: Version::V1, folder }) = freezer {
            let _ = fs::write(folder.join("freezer.state"), "THAWED");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends each member of a group the signal that kills; returns how many there were.
fn signal_members(folder: &Path) -> usize {
    let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let pids = members.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0);
    pids.inspect(|pid| {
        // SAFETY: a call without pointers. Members are read just now, and a process of the group is ours to kill.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    })
    .count()
}

/// Folders called `name` below `folder`, down to `depth` levels.
fn named(folder: &Path, name: &str, depth: usize) -> Vec<PathBuf> {
    if depth == 0 {
        return Vec::new();
    }
    let (found, others): (Vec<_>, Vec<_>) = subfolders(folder).into_iter().partition(|path| path.ends_with(name));
    found.into_iter().chain(others.iter().flat_map(|path| named(path, name, depth - 1))).collect()
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

fn remove_folder(folder: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "a control group cannot be removed");
                return;
            }
            _ => return,
        }
    }
}

/// Mounted hierarchies: version, controllers (those of version 2 are read from it), mount point.
fn hierarchies(mountinfo: &str) -> Vec<(Version, Vec<String>, PathBuf)> {
    let words = |text: &str, separator| text.split(separator).map(str::to_owned).collect::<Vec<_>>();
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(mount), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
        let mount = PathBuf::from(mount);
        match right.next() {
            Some("cgroup") => found.push((Version::V1, words(right.nth(1).unwrap_or_default(), ','), mount)),
            Some("cgroup2") => {
                let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
                found.push((Version::V2, words(controllers.trim(), ' '), mount));
            }
            _ => {}
        }
    }
    found
}

/// This process's group in a hierarchy, from `/proc/self/cgroup`.
fn own_path<'a>(own: &'a str, version: Version, controllers: &[String]) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        let matches = match version {
            Version::V2 => names.is_empty(),
            Version::V1 => {
                !names.is_empty() && names.split(',').any(|name| controllers.iter().any(|other| other == name))
            }
        };
        matches.then_some(path.trim_start_matches('/'))
    })
}

/// Groups below which ours may be made, the best first.
///
/// Version 2 allows no processes beside groups with controllers, so there the top comes first, as Docker does it, and then our own
/// group, if it has been delegated to us and only we are in it.
fn candidates(version: Version, mount: &Path, own: &str) -> Vec<PathBuf> {
    match version {
        Version::V1 => vec![mount.join(own), mount.to_owned()],
        Version::V2 => vec![mount.to_owned(), mount.join(own)],
    }
}

/// Makes the folder `node` in `parent`; returns it and the controllers that groups in it will have.
fn claim(version: Version, parent: &Path, node: &str, controllers: &[String]) -> io::Result<(PathBuf, Vec<String>)> {
    let folder = parent.join(node);
    if !folder.exists() {
        fs::create_dir(&folder)?;
    }
    let controllers = match version {
        Version::V1 => controllers.to_vec(),
        Version::V2 => {
            // Each on its own: one that is missing must not take the others away. Freezing is no controller.
            let enable =
                |folder: &Path, name: &String| fs::write(folder.join("cgroup.subtree_control"), format!("+{name}"));
            let mut enabled: Vec<_> = controllers
                .iter()
                .filter(|name| ["memory", "pids", "cpu"].contains(&name.as_str()))
                .filter(|name| enable(parent, name).and_then(|()| enable(&folder, name)).is_ok())
                .cloned()
                .collect();
            enabled.push("freezer".to_owned());
            enabled
        }
    };
    // Being allowed to make a group is not yet being allowed to use it.
    let probe = folder.join("probe");
    fs::create_dir(&probe)?;
    let usable = fs::OpenOptions::new().write(true).open(probe.join("cgroup.procs")).map(drop);
    let has_freezer = version == Version::V1 || probe.join("cgroup.freeze").exists();
    let _ = fs::remove_dir(&probe);
    if let Err(error) = usable {
        let _ = fs::remove_dir(&folder);
        return Err(error);
    }
    Ok((folder, controllers.into_iter().filter(|name| has_freezer || name != "freezer").collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_and_own_groups_are_found() {
        let mounts = "31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 24 0:28 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory\n25 1 8:1 / / rw - ext4 /dev/vda rw\n";
        let found = hierarchies(mounts);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].2, Path::new("/sys/fs/cgroup/memory"));
        let own = "4:memory:/a/b\n2:cpu,cpuacct:/\n0::/user.slice\n";
        assert_eq!(own_path(own, Version::V1, &found[1].1), Some("a/b"));
        assert_eq!(own_path(own, Version::V1, &found[0].1), Some(""));
        assert_eq!(own_path(own, Version::V2, &[]), Some("user.slice"));
        assert_eq!(own_path(own, Version::V1, &["pids".to_owned()]), None);
    }

    /// The whole of version 2 where its hierarchy can be written, even if it has no controllers (then freezing is what there is).
    #[test]
    fn version_2_freezes_kills_and_goes() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let Some((version, controllers, mount)) = hierarchies(&mounts).into_iter().find(|found| found.0 == Version::V2)
        else {
            eprintln!("skipped: no version 2 here");
            return;
        };
        let node = format!("whisp-test-{}", std::process::id());
        let Ok((folder, enabled)) = claim(version, &mount, &node, &controllers) else {
            eprintln!("skipped: version 2 is not writable");
            return;
        };
        assert!(enabled.contains(&"freezer".to_owned()));
        let place = Place { version, folder: folder.clone() };
        let cgroups = Cgroups { freezer: Some(place), folders: vec![folder.clone()], ..Cgroups::default() };
        let group = cgroups.create("one").unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        group.add(child.id() as i32).unwrap();
        group.freeze(true).unwrap();
        assert!(fs::read_to_string(folder.join("one/cgroup.events")).unwrap().contains("frozen 1"));
        group.freeze(false).unwrap();
        group.freeze(true).unwrap();
        group.kill();
        child.wait().unwrap();
        group.remove();
        assert!(!folder.join("one").exists());
        cgroups.remove();
        assert!(!folder.exists());
    }
}
