//! Peers and clients as Debian packages, unpacked into a cache folder; nothing is installed and the system's apt is not touched.
//!
//! The suites are fixed, so every machine measures the same builds; apt checks their signatures with Debian's
//! keyring. A folder of the cache appears by one rename: it is complete or it is not there.

use anyhow::{Context, Result, bail, ensure};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A program from Debian with the libraries that it needs beyond Debian's essential ones.
#[derive(Clone, Copy, Debug)]
pub struct Package {
    /// The cache folder is named after this and the version.
    pub name: &'static str,
    /// As `apt-get download` takes them, the one that gives the version first.
    pub debs: &'static [&'static str],
    /// The program's path in the unpacked tree.
    pub program: &'static str,
}

/// Valkey 8 of bookworm-backports.
pub const VALKEY: Package = Package {
    name: "valkey",
    debs: &[
        "valkey-server/bookworm-backports",
        "valkey-tools/bookworm-backports",
        "libatomic1",
        "libjemalloc2",
        "liblzf1",
        "libssl3",
        "libsystemd0",
    ],
    program: "usr/bin/valkey-server",
};

/// redis-cli and redis-benchmark of bookworm.
pub const REDIS_TOOLS: Package = Package {
    name: "redis-tools",
    debs: &[
        "redis-tools",
        "libatomic1",
        "libjemalloc2",
        "liblua5.1-0",
        "liblzf1",
        "libssl3",
        "libsystemd0",
        "lua-bitop",
        "lua-cjson",
    ],
    program: "usr/bin/redis-cli",
};

/// etcd 3.4 of bookworm.
pub const ETCD: Package = Package {
    name: "etcd",
    debs: &["etcd-server"],
    program: "usr/bin/etcd",
};

/// An unpacked package.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The program's path.
    pub program: PathBuf,
    /// Upstream's version.
    pub version: String,
    /// For `LD_LIBRARY_PATH`.
    pub libraries: PathBuf,
}

impl Package {
    /// Finds the package in the cache, or downloads and unpacks it there.
    ///
    /// # Errors
    /// If this is no Debian-like machine, the mirror cannot be reached, or the cache cannot be written.
    pub fn fetch(&self, cache: &Path) -> Result<Unpacked> {
        if let Some(found) = self.find(cache)? {
            return Ok(found);
        }
        fs::create_dir_all(cache).with_context(|| format!("create {}", cache.display()))?;
        eprintln!("downloading {} from {MIRROR} into {}", self.name, cache.display());
        let work = tempfile::TempDir::with_prefix_in("download-", cache)?;
        let apt = Apt::set_up(work.path())?;
        apt.run(work.path(), ["update", "-qq"])?;
        let debs = work.path().join("debs");
        fs::create_dir(&debs)?;
        apt.run(&debs, ["download", "-qq"].iter().chain(self.debs))?;
        let tree = work.path().join("tree");
        fs::create_dir(&tree)?;
        let main_deb = self.debs[0].split('/').next().expect("split gives at least one piece");
        let mut version = None;
        for deb in fs::read_dir(&debs)? {
            let deb = deb?.path();
            output(Command::new("dpkg").arg("-x").arg(&deb).arg(&tree))?;
            if output(Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Package"))? == main_deb {
                version = Some(upstream(&output(Command::new("dpkg-deb").arg("-f").arg(&deb).arg("Version"))?));
            }
        }
        let version = version.with_context(|| format!("{main_deb} was not downloaded"))?;
        ensure!(tree.join(self.program).exists(), "{} is not in {:?}", self.program, self.debs);
        let folder = cache.join(format!("{}-{version}", self.name));
        if let Err(error) = fs::rename(&tree, &folder)
            && !folder.exists()
        {
            return Err(error).with_context(|| format!("move to {}", folder.display()));
        }
        self.find(cache)?.context("the unpacked package is in the cache")
    }

    fn find(&self, cache: &Path) -> Result<Option<Unpacked>> {
        let Ok(entries) = fs::read_dir(cache) else { return Ok(None) };
        let prefix = format!("{}-", self.name);
        for entry in entries {
            let folder = entry?.path();
            let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let program = folder.join(self.program);
            if let Some(version) = name.strip_prefix(&prefix)
                && program.exists()
            {
                let libraries = folder.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
                return Ok(Some(Unpacked {
                    program,
                    version: version.to_owned(),
                    libraries,
                }));
            }
        }
        Ok(None)
    }
}

/// Upstream's part of a Debian version: `5:8.0.1+dfsg1-1~bpo12+1` is 8.0.1.
fn upstream(version: &str) -> String {
    let version = version.split_once(':').map_or(version, |(_epoch, rest)| rest);
    version.split(['+', '-', '~']).next().unwrap_or(version).to_owned()
}

/// apt with sources, lists and caches of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn set_up(dir: &Path) -> Result<Self> {
        let sources = dir.join("sources.list");
        let suites = ["bookworm", "bookworm-backports"].map(|suite| format!("deb [signed-by={KEYRING}] {MIRROR} {suite} main\n"));
        fs::write(&sources, suites.concat())?;
        let lists = dir.join("lists");
        fs::create_dir_all(lists.join("partial"))?;
        let cache = dir.join("cache");
        fs::create_dir_all(cache.join("archives/partial"))?;
        let settings = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=-".into(),
            format!("Dir::State::lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            "Acquire::Languages=none".into(),
            // The folder belongs to us, not to apt's user.
            "APT::Sandbox::User=".into(),
        ];
        Ok(Self {
            options: settings.into_iter().flat_map(|setting| ["-o".into(), setting]).collect(),
        })
    }

    fn run(&self, dir: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
        output(Command::new("apt-get").args(&self.options).args(args).current_dir(dir)).map(drop)
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_version_is_what_precedes_debians_additions() {
        assert_eq!(upstream("8.0.1+dfsg1-1~bpo12+1"), "8.0.1");
        assert_eq!(upstream("3.4.23-4+b4"), "3.4.23");
        assert_eq!(upstream("5:7.0.15-1~deb12u10"), "7.0.15");
        assert_eq!(upstream("5"), "5");
    }

    #[test]
    fn a_cached_package_is_found_with_its_version_and_a_partial_one_is_not() {
        let cache = tempfile::tempdir().unwrap();
        fs::create_dir_all(cache.path().join("etcd-1.2.3/usr/bin")).unwrap();
        assert!(ETCD.find(cache.path()).unwrap().is_none());
        fs::write(cache.path().join("etcd-1.2.3/usr/bin/etcd"), "").unwrap();
        assert_eq!(ETCD.find(cache.path()).unwrap().unwrap().version, "1.2.3");
        assert!(VALKEY.find(cache.path()).unwrap().is_none());
    }
}
