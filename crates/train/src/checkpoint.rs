//! Checkpoints of a run: folders `step-N`, each with a manifest of what belongs in it.
//!
//! A checkpoint is built as `step-N.tmp-...`, its manifest is written last, and the whole folder is renamed. A
//! reader accepts it only if every file of the manifest has its size and its sha256, so a checkpoint that a kill,
//! a lost disk write or a stray hand has broken is passed over in favour of the one before.

use crate::atomic::{self, Temporary};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Version of the folder's layout.
pub const FORMAT_VERSION: u64 = 1;
/// Complete checkpoints that stay.
pub const KEEP: usize = 2;
const MANIFEST: &str = "manifest.json";
const PREFIX: &str = "step-";
/// No honest manifest is larger.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name inside the folder, without separators.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// sha256 of the content, in lower-case hexadecimal.
    pub sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format_version: u64,
    step: u64,
    files: Vec<FileEntry>,
}

/// The folder that holds a run's checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// The checkpoints in `folder`, which is created where it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be created.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// Where the checkpoint of `step` lies or will lie.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step}"))
    }

    /// Starts the checkpoint of `step`. Nothing is visible before [`Writer::finish`].
    ///
    /// # Errors
    /// [`Error::CheckpointExists`] where a complete one is there: it holds the same step of the same run.
    /// A broken one is removed, one of another version is an error. [`Error::Io`] where the folder cannot be written.
    pub fn begin(&self, step: u64) -> Result<Writer> {
        let target = self.path(step);
        match verify(&target) {
            Ok(_) => return Err(Error::CheckpointExists { path: target }),
            Err(e @ Error::Version { .. }) => return Err(e),
            Err(_) => {}
        }
        atomic::remove(&target).map_err(Error::io("remove", &target))?;
        let temporary = Temporary::beside(&target)?;
        fs::create_dir(&temporary.path).map_err(Error::io("create", &target))?;
        Ok(Writer { manifest: Manifest { format_version: FORMAT_VERSION, step, files: vec![] }, target, temporary })
    }

    /// Steps that have a folder, complete or not, in ascending order.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be listed.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps = vec![];
        for entry in fs::read_dir(&self.folder).map_err(Error::io("list", &self.folder))? {
            let name = entry.map_err(Error::io("list", &self.folder))?.file_name();
            let step = name.to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse::<u64>().ok());
            // The path is compared so that `step-007` is not taken for step 7.
            steps.extend(step.filter(|&s| self.path(s).file_name() == Some(&name)));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest checkpoint whose files are all there, unchanged.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] where there is none; [`Error::Version`] where the newest is of another version, since
    /// silently falling back to an older one would lose work.
    pub fn latest_complete(&self) -> Result<Checkpoint> {
        let mut broken = 0;
        for step in self.steps()?.into_iter().rev() {
            match verify(&self.path(step)) {
                Ok(checkpoint) => return Ok(checkpoint),
                Err(e @ Error::Version { .. }) => return Err(e),
                Err(_) => broken += 1,
            }
        }
        Err(Error::NoCheckpoint { path: self.folder.clone(), found: broken })
    }

    /// Folders of steps after `step`: where that is the newest complete one, those are damaged.
    ///
    /// # Errors
    /// [`Error::Io`] where the folders cannot be listed.
    pub fn after(&self, step: u64) -> Result<Vec<PathBuf>> {
        Ok(self.steps()?.into_iter().filter(|&s| s > step).map(|s| self.path(s)).collect())
    }

    /// Removes all but the newest [`KEEP`] complete checkpoints, and the broken ones among those removed.
    ///
    /// A folder is renamed before it is emptied, so that a kill leaves no half-empty checkpoint.
    ///
    /// # Errors
    /// [`Error::Io`] where a folder cannot be removed.
    pub fn prune(&self) -> Result<()> {
        let mut complete = 0;
        for step in self.steps()?.into_iter().rev() {
            let path = self.path(step);
            if complete < KEEP {
                complete += usize::from(sizes_match(&path));
                continue;
            }
            let doomed = Temporary::beside(&path)?;
            fs::rename(&path, &doomed.path).map_err(Error::io("remove", &path))?;
            atomic::remove(&doomed.path).map_err(Error::io("remove", &path))?;
        }
        Ok(())
    }

    /// Removes what killed processes left half-written. The caller must hold the run's lock.
    ///
    /// # Errors
    /// [`Error::Io`] where something cannot be removed.
    pub fn remove_leftovers(&self) -> Result<usize> {
        atomic::remove_leftovers(&self.folder)
    }
}

/// A checkpoint being written; dropped unfinished, it leaves nothing.
pub struct Writer {
    manifest: Manifest,
    target: PathBuf,
    temporary: Temporary,
}

impl Writer {
    /// Adds a file with the content `bytes`.
    ///
    /// # Errors
    /// As [`Writer::file_with`].
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<&FileEntry> {
        self.file_with(name, |out| out.write_all(bytes))
    }

    /// Adds a file with what `fill` writes, and gives its entry.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and the cause, such as a full disk; [`Error::Unsuitable`] for a name that is
    /// taken or leads out of the folder.
    pub fn file_with(&mut self, name: &str, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<&FileEntry> {
        let shown = self.target.join(name);
        if !is_plain_name(name) || name == MANIFEST || self.manifest.files.iter().any(|f| f.name == name) {
            return Err(Error::unsuitable(&shown, "is no free plain file name inside of a checkpoint"));
        }
        let file = File::create_new(self.temporary.path.join(name)).map_err(Error::io("create", &shown))?;
        let mut digest = (Sha256::new(), 0);
        atomic::fill_and_sync(file, |out| fill(&mut Hashing { out, digest: &mut digest }))
            .map_err(Error::io("write", &shown))?;
        let (sha256, bytes) = (hex(digest.0), digest.1);
        self.manifest.files.push(FileEntry { name: name.to_string(), bytes, sha256 });
        Ok(&self.manifest.files[self.manifest.files.len() - 1])
    }

    /// Writes the manifest and gives the folder its name.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and the cause; nothing is left then.
    pub fn finish(self) -> Result<Checkpoint> {
        let manifest = serde_json::to_vec_pretty(&self.manifest).expect("a manifest is plain data");
        atomic::write(&self.temporary.path.join(MANIFEST), &manifest)?;
        self.temporary.rename_to(&self.target)?;
        Ok(Checkpoint { step: self.manifest.step, path: self.target, files: self.manifest.files })
    }
}

/// A complete checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// What it holds.
    pub files: Vec<FileEntry>,
}

impl Checkpoint {
    /// The content of one of its files.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read, [`Error::Unsuitable`] where the checkpoint has no such file or the
    /// content is not the one that was written.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let entry = self.files.iter().find(|f| f.name == name);
        let entry = entry.ok_or_else(|| Error::unsuitable(&path, "is not part of this checkpoint"))?;
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        if hex(Sha256::new_with_prefix(&bytes)) != entry.sha256 {
            return Err(Error::unsuitable(&path, "has changed since the checkpoint was written"));
        }
        Ok(bytes)
    }
}

/// Reads the checkpoint in `folder` and checks every byte of it against its manifest.
///
/// # Errors
/// [`Error::Io`] or [`Error::Unsuitable`] with the first file that is missing or wrong, [`Error::Version`].
pub fn verify(folder: &Path) -> Result<Checkpoint> {
    let manifest = read_manifest(folder)?;
    for entry in &manifest.files {
        let path = folder.join(&entry.name);
        let mut file = File::open(&path).map_err(Error::io("read", &path))?;
        let mut digest = (Sha256::new(), 0);
        io::copy(&mut file, &mut Hashing { out: &mut io::sink(), digest: &mut digest })
            .map_err(Error::io("read", &path))?;
        if digest.1 != entry.bytes {
            let reason = format!("holds {} bytes, its manifest says {}", digest.1, entry.bytes);
            return Err(Error::unsuitable(&path, reason));
        }
        if hex(digest.0) != entry.sha256 {
            return Err(Error::unsuitable(&path, "has another sha256 than its manifest says"));
        }
    }
    Ok(Checkpoint { step: manifest.step, path: folder.to_path_buf(), files: manifest.files })
}

/// Whether the checkpoint has a manifest and files of the right sizes: cheap enough for every save.
fn sizes_match(folder: &Path) -> bool {
    let size = |entry: &FileEntry| fs::metadata(folder.join(&entry.name)).map(|m| m.len()).ok();
    read_manifest(folder).is_ok_and(|m| m.files.iter().all(|f| size(f) == Some(f.bytes)))
}

fn read_manifest(folder: &Path) -> Result<Manifest> {
    #[derive(Deserialize)]
    struct VersionOnly {
        format_version: u64,
    }
    let path = folder.join(MANIFEST);
    let mut text = vec![];
    File::open(&path)
        .and_then(|f| f.take(MAX_MANIFEST_BYTES).read_to_end(&mut text))
        .map_err(Error::io("read", &path))?;
    let broken = |e: serde_json::Error| Error::unsuitable(&path, format!("is no manifest: {e}"));
    let version: VersionOnly = serde_json::from_slice(&text).map_err(broken)?;
    if version.format_version != FORMAT_VERSION {
        return Err(Error::Version { path, found: version.format_version, known: FORMAT_VERSION });
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(broken)?;
    if let Some(file) = manifest.files.iter().find(|f| !is_plain_name(&f.name)) {
        return Err(Error::unsuitable(&path, format!("names the file `{}`, which is no plain file name", file.name)));
    }
    if folder.file_name().is_none_or(|n| *n != *format!("{PREFIX}{}", manifest.step)) {
        return Err(Error::unsuitable(folder, format!("holds the checkpoint of step {}", manifest.step)));
    }
    Ok(manifest)
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

/// Passes bytes on, hashing and counting them.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    digest: &'a mut (Sha256, u64),
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.digest.0.update(&bytes[..n]);
        self.digest.1 += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A digest in lower-case hexadecimal.
pub(crate) fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Checkpoints) {
        let dir = tempfile::tempdir().unwrap();
        let store = Checkpoints::open(&dir.path().join("checkpoints")).unwrap();
        (dir, store)
    }

    fn save(store: &Checkpoints, step: u64) -> Checkpoint {
        let mut writer = store.begin(step).unwrap();
        writer.file("model.safetensors", &[step as u8; 1000]).unwrap();
        writer.file("cursor.json", b"{}").unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_from_the_newest() {
        let (_dir, store) = store();
        save(&store, 9);
        save(&store, 10);
        let latest = store.latest_complete().unwrap();
        assert_eq!(latest.step, 10);
        assert_eq!(latest.read("model.safetensors").unwrap(), [10; 1000]);
        assert_eq!(latest.files[1].name, "cursor.json");
        assert_eq!(latest.files[1].sha256, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert!(latest.read("other").unwrap_err().to_string().contains("not part of this checkpoint"));
    }

    #[test]
    fn a_checkpoint_broken_in_any_way_is_passed_over() {
        type Damage = fn(&Path);
        let damages: [(&str, Damage); 5] = [
            ("no manifest", |p| fs::remove_file(p.join(MANIFEST)).unwrap()),
            ("a missing file", |p| fs::remove_file(p.join("cursor.json")).unwrap()),
            ("a short file", |p| fs::write(p.join("model.safetensors"), [10; 999]).unwrap()),
            ("a flipped bit", |p| {
                let mut bytes = fs::read(p.join("model.safetensors")).unwrap();
                bytes[500] ^= 1;
                fs::write(p.join("model.safetensors"), bytes).unwrap();
            }),
            ("half a manifest", |p| fs::write(p.join(MANIFEST), "{\"format_version\": 1, \"step\"").unwrap()),
        ];
        for (what, damage) in damages {
            let (_dir, store) = store();
            save(&store, 9);
            damage(&save(&store, 10).path);
            assert_eq!(store.latest_complete().unwrap().step, 9, "{what}");
            assert_eq!(store.after(9).unwrap(), [store.path(10)], "{what} is named");
            save(&store, 10);
            assert_eq!(store.latest_complete().unwrap().step, 10, "{what} is written anew");
        }
    }

    #[test]
    fn only_broken_checkpoints_are_an_error_with_their_number() {
        let (_dir, store) = store();
        assert!(matches!(store.latest_complete(), Err(Error::NoCheckpoint { found: 0, .. })));
        fs::remove_file(save(&store, 3).path.join(MANIFEST)).unwrap();
        assert!(matches!(store.latest_complete(), Err(Error::NoCheckpoint { found: 1, .. })));
    }

    #[test]
    fn another_version_is_an_error_and_not_a_fallback() {
        let (_dir, store) = store();
        save(&store, 1);
        let newest = save(&store, 2).path.join(MANIFEST);
        let text = fs::read_to_string(&newest).unwrap().replace("\"format_version\": 1", "\"format_version\": 2");
        fs::write(&newest, text).unwrap();
        assert!(matches!(store.latest_complete(), Err(Error::Version { found: 2, known: 1, .. })));
        assert!(matches!(store.begin(2), Err(Error::Version { .. })));
        assert!(newest.exists(), "a checkpoint of another version is never removed");
    }

    #[test]
    fn a_writer_that_is_dropped_leaves_nothing_and_leftovers_of_a_kill_are_cleaned() {
        let (_dir, store) = store();
        save(&store, 1);
        let mut writer = store.begin(2).unwrap();
        writer.file("a", b"x").unwrap();
        drop(writer);
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1);

        let mut killed = store.begin(3).unwrap();
        killed.file("a", b"x").unwrap();
        std::mem::forget(killed);
        assert_eq!(store.latest_complete().unwrap().step, 1);
        assert_eq!(store.remove_leftovers().unwrap(), 1);
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1);
    }

    #[test]
    fn pruning_keeps_the_last_two_complete_ones() {
        let (_dir, store) = store();
        for step in [0, 5, 20, 100] {
            save(&store, step);
        }
        fs::remove_file(store.path(100).join("cursor.json")).unwrap();
        store.prune().unwrap();
        assert_eq!(store.steps().unwrap(), [5, 20, 100]);
        assert_eq!(store.latest_complete().unwrap().step, 20);
    }

    #[test]
    fn a_complete_checkpoint_is_not_written_twice() {
        let (_dir, store) = store();
        save(&store, 4);
        assert!(matches!(store.begin(4), Err(Error::CheckpointExists { .. })));
    }

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused_when_writing_and_reading() {
        let (_dir, store) = store();
        let mut writer = store.begin(1).unwrap();
        for name in ["", "../x", "a/b", MANIFEST, ".hidden"] {
            assert!(matches!(writer.file(name, b""), Err(Error::Unsuitable { .. })), "{name}");
        }
        let path = save(&store, 2).path.join(MANIFEST);
        let text = fs::read_to_string(&path).unwrap().replace("cursor.json", "../secret");
        fs::write(&path, text).unwrap();
        assert!(verify(&store.path(2)).unwrap_err().to_string().contains("no plain file name"));
    }

    #[test]
    fn a_failing_file_ends_in_one_line_and_no_checkpoint() {
        let (_dir, store) = store();
        let mut writer = store.begin(1).unwrap();
        let full = |_: &mut dyn Write| Err(io::Error::from(io::ErrorKind::StorageFull));
        let line = writer.file_with("model.safetensors", full).unwrap_err().to_string();
        assert!(line.contains("cannot write") && line.contains("model.safetensors"), "{line}");
        drop(writer);
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 0);
    }
}
