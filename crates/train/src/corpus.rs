//! Text to learn from: the embedded novel, a file, or a folder of files, and the part of it that is held out.
//!
//! Text is bytes; nothing asks for UTF-8. In a folder every file is one document. Files are read into memory and
//! not mapped: a mapped file that someone edits during a run would change under the model.
//!
//! **The held-out part** is the end of the text: its last tenth by default. With several documents it begins at
//! the document boundary nearest to that place, so that no document is in both parts, unless this would hold out
//! less than half or more than twice what was asked for (one huge document, say): then it begins at the exact byte.

use crate::error::{Error, Result};
use crate::human;
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The novel that is trained on by default; data/LICENSE.md says where it comes from. A build packs it, so that it takes less
/// than half of its size in the binary.
static MOBY_DICK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let packed = include_bytes!(concat!(env!("OUT_DIR"), "/moby-dick.deflate"));
    miniz_oxide::inflate::decompress_to_vec(packed).expect("the build packed it")
});
/// Extensions that a folder is searched for, in lower case.
pub const EXTENSIONS: &[&str] = &["json", "jsonl", "md", "rst", "txt"];
/// The largest text that is read, in bytes. Tokens of all of it are kept in memory.
pub const MAX_BYTES: u64 = 8 << 30;
/// The share of the text that is held out by default.
pub const HELD_OUT: f64 = 0.1;

/// Text, cut into documents.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// Where it comes from, as messages name it.
    pub origin: String,
    bytes: Cow<'static, [u8]>,
    documents: Vec<Document>,
    skipped: Vec<Skipped>,
}

/// One document of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its path below the corpus, or the corpus' own name.
    pub name: String,
    /// Where its bytes lie in [`Corpus::bytes`].
    pub range: Range<usize>,
}

/// A file of a folder that is not part of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: &'static str,
}

/// One part of a corpus: bytes, and where documents start in them. The first start is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The text.
    pub bytes: &'a [u8],
    /// Where the part lies in the corpus.
    pub offset: usize,
    documents: &'a [Document],
}

impl Part<'_> {
    /// Offsets into `bytes` at which a document starts, ascending, the first one 0. A document that began before
    /// the part counts as starting with it.
    pub fn starts(&self) -> Vec<usize> {
        let end = self.offset + self.bytes.len();
        let overlapping = self.documents.iter().filter(|d| d.range.start < end && d.range.end > self.offset);
        overlapping.map(|d| d.range.start.max(self.offset) - self.offset).collect()
    }
}

impl Corpus {
    /// The embedded novel: one document.
    pub fn moby_dick() -> Self {
        let document = Document { name: "moby-dick".to_string(), range: 0..MOBY_DICK.len() };
        Self {
            origin: "moby-dick (embedded)".to_string(),
            bytes: Cow::Borrowed(&MOBY_DICK),
            documents: vec![document],
            skipped: vec![],
        }
    }

    /// Documents that are in memory already; empty ones are left out.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where nothing is left.
    pub fn from_documents(origin: &str, documents: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self> {
        let mut corpus =
            Self { origin: origin.to_string(), bytes: Cow::Borrowed(&[]), documents: vec![], skipped: vec![] };
        for (name, bytes) in documents {
            corpus.push(name, &bytes);
        }
        if corpus.bytes.is_empty() {
            return Err(Error::unsuitable(Path::new(origin), "holds no text"));
        }
        Ok(corpus)
    }

    /// Reads a file, or every file below a folder that has one of [`EXTENSIONS`], sorted by path.
    ///
    /// In a folder, hidden entries, other extensions, empty files and links to folders are skipped and listed in
    /// [`Corpus::skipped`].
    ///
    /// # Errors
    /// [`Error::Io`] where something cannot be read; [`Error::Unsuitable`] for an empty file, a folder without text,
    /// a device, or more than [`MAX_BYTES`].
    pub fn read(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).map_err(Error::io("read", path))?;
        let mut corpus =
            Self { origin: path.display().to_string(), bytes: Cow::Borrowed(&[]), documents: vec![], skipped: vec![] };
        if meta.is_file() {
            let bytes = read_limited(path, MAX_BYTES)?;
            if bytes.is_empty() {
                return Err(Error::unsuitable(path, "is empty, expected text"));
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            corpus.documents.push(Document { name, range: 0..bytes.len() });
            corpus.bytes = Cow::Owned(bytes);
        } else if meta.is_dir() {
            corpus.read_folder(path, MAX_BYTES)?;
        } else {
            return Err(Error::unsuitable(path, "is a device or a pipe, expected a file or a folder"));
        }
        Ok(corpus)
    }

    fn read_folder(&mut self, root: &Path, max_bytes: u64) -> Result<()> {
        let mut files = vec![];
        list_files(root, &mut files, &mut self.skipped)?;
        // Sorted by the names on the way down, so that the order does not depend on the file system.
        files.sort_by(|a, b| a.components().cmp(b.components()));
        self.skipped.sort_by(|a, b| a.path.cmp(&b.path));
        for path in files {
            let left = max_bytes - self.bytes.len() as u64;
            let bytes = read_limited(&path, left)?;
            if bytes.is_empty() {
                self.skipped.push(Skipped { path, reason: "empty" });
                continue;
            }
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            self.push(name, &bytes);
        }
        if self.bytes.is_empty() {
            let known = EXTENSIONS.iter().map(|e| format!(".{e}")).collect::<Vec<_>>().join(", ");
            let reason = format!("holds no text: no file with content and one of {known}");
            return Err(Error::unsuitable(root, reason));
        }
        Ok(())
    }

    fn push(&mut self, name: String, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.bytes.len();
        self.bytes.to_mut().extend_from_slice(bytes);
        self.documents.push(Document { name, range: start..self.bytes.len() });
    }

    /// All text, document after document.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The documents, in order, without gaps.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// Files that were found and not taken.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// What was read, and what was not, in one line.
    pub fn about(&self) -> String {
        let (n, bytes) = (self.documents.len(), human::bytes(self.bytes.len() as u64));
        let plural = if n == 1 { "" } else { "s" };
        let mut line = format!("{n} document{plural}, {bytes}, from {}", self.origin);
        let skipped = self.skipped.iter().take(3).map(|s| format!("{}: {}", s.path.display(), s.reason));
        let named = skipped.collect::<Vec<_>>().join("; ");
        match self.skipped.len() {
            0 => {}
            n @ 1..=3 => line += &format!(" ({n} skipped: {named})"),
            n => line += &format!(" ({n} skipped, such as {named})"),
        }
        line
    }

    /// All of it as one part.
    pub fn whole(&self) -> Part<'_> {
        self.part(0..self.bytes.len())
    }

    /// The training part and the held-out part, which is about `held_out` of the bytes: see the module's text.
    ///
    /// # Errors
    /// [`Error::Unsuitable`] where `held_out` is outside of [0, 0.9], or is above 0 and a part would be empty.
    pub fn split(&self, held_out: f64) -> Result<(Part<'_>, Part<'_>)> {
        let refuse = |reason: String| Err(Error::unsuitable(Path::new(&self.origin), reason));
        if !(0.0..=0.9).contains(&held_out) {
            return refuse(format!("cannot hold out a share of {held_out}, expected 0 to 0.9"));
        }
        let total = self.bytes.len();
        if held_out == 0.0 {
            return Ok((self.whole(), self.part(total..total)));
        }
        let wanted = (total as f64 * held_out) as usize;
        if wanted == 0 {
            return refuse(format!("holds {total} bytes, too few to hold out a share of {held_out}"));
        }
        let cut = self.boundary_near(total - wanted, wanted).unwrap_or(total - wanted);
        Ok((self.part(0..cut), self.part(cut..total)))
    }

    /// The document boundary nearest to `cut` that holds out between half and twice of `wanted` bytes.
    fn boundary_near(&self, cut: usize, wanted: usize) -> Option<usize> {
        let total = self.bytes.len();
        let boundaries = self.documents.iter().skip(1).map(|d| d.range.start);
        let fitting = boundaries.filter(|b| (wanted.div_ceil(2)..=2 * wanted).contains(&(total - b)));
        fitting.min_by_key(|b| b.abs_diff(cut))
    }

    fn part(&self, range: Range<usize>) -> Part<'_> {
        Part { bytes: &self.bytes[range.clone()], offset: range.start, documents: &self.documents }
    }
}

/// The whole file, or an error where it is larger than `max_bytes` or still growing past it.
fn read_limited(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    let mut bytes = vec![];
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::unsuitable(path, format!("makes the text larger than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>, skipped: &mut Vec<Skipped>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let path = entry.path();
        let mut skip = |reason| skipped.push(Skipped { path: path.clone(), reason });
        if entry.file_name().to_string_lossy().starts_with('.') {
            skip("hidden");
            continue;
        }
        if entry.file_type().map_err(Error::io("list", &path))?.is_dir() {
            list_files(&path, files, skipped)?;
            continue;
        }
        // Links to folders are not followed: they may lead in circles.
        let meta = fs::metadata(&path).map_err(Error::io("read", &path))?;
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        match (meta.is_dir(), meta.is_file()) {
            (true, _) => skip("link to a folder"),
            (_, false) => skip("neither file nor folder"),
            _ if !EXTENSIONS.contains(&extension.as_str()) => skip("not a text extension"),
            _ => files.push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(sizes: &[usize]) -> Corpus {
        let docs = sizes.iter().enumerate().map(|(i, &n)| (format!("d{i}"), vec![i as u8; n]));
        Corpus::from_documents("test", docs).unwrap()
    }

    #[test]
    fn the_embedded_novel_is_the_published_one() {
        let corpus = Corpus::moby_dick();
        assert_eq!(corpus.bytes().len(), 1_204_997);
        let digest = crate::checkpoint::hex(sha2::Digest::new_with_prefix(corpus.bytes()));
        assert_eq!(digest, "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240");
        let (train, held_out) = corpus.split(HELD_OUT).unwrap();
        assert_eq!((train.bytes.len(), held_out.bytes.len()), (1_084_498, 120_499));
        assert_eq!((train.starts(), held_out.starts()), (vec![0], vec![0]));
    }

    #[test]
    fn a_file_of_any_bytes_is_one_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.bin");
        fs::write(&path, [0xff, 0xfe, 0, b'a']).unwrap();
        let corpus = Corpus::read(&path).unwrap();
        assert_eq!(corpus.bytes(), [0xff, 0xfe, 0, b'a']);
        assert_eq!(corpus.documents(), [Document { name: "data.bin".into(), range: 0..4 }]);
    }

    #[test]
    fn a_folder_is_read_sorted_by_path_and_says_what_it_skips() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        for (name, text) in [
            ("z.txt", "zz"),
            ("a/b/deep.MD", "deep"),
            ("a/x.rst", "x"),
            ("a.jsonl", "{}"),
            ("image.png", "png"),
            ("empty.txt", ""),
            (".hidden.txt", "secret"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        let corpus = Corpus::read(root).unwrap();
        let names: Vec<_> = corpus.documents().iter().map(|d| d.name.replace('\\', "/")).collect();
        assert_eq!(names, ["a/b/deep.MD", "a/x.rst", "a.jsonl", "z.txt"]);
        assert_eq!(corpus.bytes(), b"deepx{}zz");
        let mut skipped: Vec<_> =
            corpus.skipped().iter().map(|s| (s.path.file_name().unwrap().to_str().unwrap(), s.reason)).collect();
        skipped.sort();
        assert_eq!(skipped, [(".hidden.txt", "hidden"), ("empty.txt", "empty"), ("image.png", "not a text extension")]);
        let line = corpus.about();
        assert!(line.starts_with("4 documents, 9 B, from ") && line.contains("(3 skipped: "), "{line}");
    }

    #[test]
    #[cfg(unix)]
    fn a_link_that_leads_in_a_circle_is_skipped_and_a_device_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.txt"), "a").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();
        let corpus = Corpus::read(dir.path()).unwrap();
        assert_eq!((corpus.documents().len(), corpus.skipped()[0].reason), (1, "link to a folder"));
        assert!(Corpus::read(Path::new("/dev/zero")).unwrap_err().to_string().contains("device"));
    }

    #[test]
    fn missing_empty_and_textless_inputs_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let line = |p: &Path| Corpus::read(p).unwrap_err().to_string();
        assert!(line(&dir.path().join("none.txt")).starts_with("cannot read"));
        assert!(line(dir.path()).contains("holds no text: no file with content and one of .json, .jsonl, .md"));
        fs::write(dir.path().join("e.txt"), "").unwrap();
        assert!(line(&dir.path().join("e.txt")).ends_with("e.txt: is empty, expected text"));
    }

    #[test]
    fn a_text_above_the_limit_is_refused_and_not_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_limited(&path, 5).unwrap().len(), 5);
        assert!(read_limited(&path, 4).unwrap_err().to_string().contains("larger than"));
    }

    #[test]
    fn the_held_out_part_begins_at_the_nearest_document_boundary() {
        let corpus = documents(&[400, 380, 130, 60, 30]);
        let (train, held_out) = corpus.split(0.1).unwrap();
        assert_eq!((train.bytes.len(), held_out.offset), (910, 910));
        assert_eq!(held_out.starts(), [0, 60]);
        assert_eq!(train.starts(), [0, 400, 780]);
        assert_eq!([train.bytes, held_out.bytes].concat(), corpus.bytes());
    }

    #[test]
    fn a_boundary_that_would_hold_out_far_too_much_or_little_is_not_taken() {
        for sizes in [&[300, 700][..], &[990, 10], &[1000]] {
            let corpus = documents(sizes);
            let (train, held_out) = corpus.split(0.1).unwrap();
            assert_eq!((train.bytes.len(), held_out.bytes.len()), (900, 100), "{sizes:?}");
        }
    }

    #[test]
    fn no_share_and_impossible_shares_are_clear() {
        let corpus = documents(&[10]);
        let (train, held_out) = corpus.split(0.0).unwrap();
        assert_eq!((train.bytes.len(), held_out.bytes.len(), held_out.starts().len()), (10, 0, 0));
        for share in [-0.1, 0.95, f64::NAN, 0.05] {
            assert!(matches!(corpus.split(share), Err(Error::Unsuitable { .. })), "{share}");
        }
    }
}
