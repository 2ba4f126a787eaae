//! Safetensors bytes: reading with limits, writing in one order, and a summary of what a file holds.
//!
//! The layout itself is the `safetensors` crate's business. Three things are added: offsets are checked against the
//! file before the crate adds them up, the header's metadata is written in sorted order so that equal content is
//! equal bytes, and every error is a line that names the file.

use crate::error::{Error, Result};
pub use safetensors::Dtype;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

/// The largest header that is read or written: a million tensors fit.
pub const MAX_HEADER_BYTES: usize = 100_000_000;
/// Bytes that hold the header's length.
const LENGTH_BYTES: usize = 8;

/// Numbers that are turned into bytes at once on their way out.
const PIECE: usize = 1024;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Name.
    pub name: String,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    /// Its numbers, row-major.
    pub data: Data<'a>,
}

/// The numbers of a tensor, where they are.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// Single precision, in runs one after the other.
    F32(Vec<&'a [f32]>),
    /// Of any type, as little-endian bytes.
    Bytes(Dtype, &'a [u8]),
}

impl<'a> Tensor<'a> {
    /// A tensor of single-precision numbers. Whether shape and data agree is checked when it is encoded.
    pub fn f32(name: &str, shape: &[usize], values: &'a [f32]) -> Self {
        Self { name: name.to_string(), shape: shape.to_vec(), data: Data::F32(vec![values]) }
    }
}

impl Data<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Data::F32(_) => Dtype::F32,
            Data::Bytes(dtype, _) => *dtype,
        }
    }

    fn len_bytes(&self) -> usize {
        match self {
            Data::F32(runs) => size_of::<f32>() * runs.iter().map(|run| run.len()).sum::<usize>(),
            Data::Bytes(_, bytes) => bytes.len(),
        }
    }

    fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let runs = match self {
            Data::Bytes(_, bytes) => return out.write_all(bytes),
            Data::F32(runs) => runs,
        };
        let mut bytes = [0; size_of::<f32>() * PIECE];
        for piece in runs.iter().flat_map(|run| run.chunks(PIECE)) {
            let piece_bytes = &mut bytes[..size_of_val(piece)];
            piece_bytes.as_chunks_mut().0.iter_mut().zip(piece).for_each(|(b, x)| *b = x.to_le_bytes());
            out.write_all(piece_bytes)?;
        }
        Ok(())
    }
}

/// A file that was checked and only has to be written: its header, and tensors that lie where they were. However
/// large it is, writing it takes a few kilobytes.
#[derive(Clone, Debug)]
pub struct Encoding<'a> {
    header: Vec<u8>,
    tensors: Vec<Tensor<'a>>,
}

impl<'a> Encoding<'a> {
    /// A file of these tensors: the same bytes for the same tensors and metadata, in any order.
    ///
    /// # Errors
    /// [`Error::Format`] naming `file` where two tensors share a name, or shape and data do not agree.
    pub fn new(file: &str, mut tensors: Vec<Tensor<'a>>, metadata: &BTreeMap<String, String>) -> Result<Self> {
        let refuse = |e: &dyn std::fmt::Display| refused(file, format!("cannot be written: {e}"));
        // The order of the library: larger numbers first, so that all of them lie aligned.
        tensors.sort_by(|a, b| b.data.dtype().cmp(&a.data.dtype()).then_with(|| a.name.cmp(&b.name)));
        let (mut names, mut infos, mut end) = (BTreeSet::new(), Vec::new(), 0);
        for t in &tensors {
            if !names.insert(t.name.as_str()) || t.name == "__metadata__" {
                return Err(refuse(&format!("the name `{}` is taken", t.name)));
            }
            let (dtype, bytes) = (t.data.dtype(), t.data.len_bytes());
            let info = |start| TensorInfo { dtype, shape: t.shape.clone(), data_offsets: (start, start + bytes) };
            // Alone first, so that the error can name the tensor.
            let alone = Metadata::new(None, vec![(t.name.clone(), info(0))]);
            alone.map_err(|e| refuse(&format!("tensor `{}`: {e}", t.name)))?;
            infos.push((t.name.clone(), info(end)));
            end += bytes;
        }
        let plain = Metadata::new(None, infos).and_then(|m| Ok(serde_json::to_string(&m)?));
        let plain = plain.map_err(|e| refuse(&e))?;
        // The library keeps metadata in an order of chance, so it is put into the finished header here.
        let rest = plain.strip_prefix('{').ok_or_else(|| refuse(&"no header"))?;
        let metadata = serde_json::to_string(metadata).map_err(|e| refuse(&e))?;
        let comma = if rest == "}" { "" } else { "," };
        let mut header = format!("{{\"__metadata__\":{metadata}{comma}{rest}").into_bytes();
        header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' ');
        if header.len() > MAX_HEADER_BYTES {
            return Err(refuse(&format!("a header of {} bytes is too large", header.len())));
        }
        Ok(Self { header, tensors })
    }

    /// Size of the file in bytes.
    pub fn len_bytes(&self) -> usize {
        LENGTH_BYTES + self.header.len() + self.tensors.iter().map(|t| t.data.len_bytes()).sum::<usize>()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        self.tensors.iter().try_for_each(|t| t.data.write_to(out))
    }

    /// The file as bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len_bytes());
        self.write_to(&mut bytes).expect("a vector takes every byte");
        bytes
    }
}

/// The line for a file that is refused.
fn refused(file: &str, reason: String) -> Error {
    Error::Format { what: file.to_string(), reason }
}

/// Where a tensor lies in a file, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Type of its numbers.
    pub dtype: Dtype,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// A file that was read and checked.
#[derive(Clone, Debug)]
pub struct TensorFile {
    file: String,
    bytes: Vec<u8>,
    metadata: BTreeMap<String, String>,
    entries: Vec<Entry>,
}

impl TensorFile {
    /// Checks bytes that are there already; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::Format`] where they are no whole safetensors file.
    pub fn parse(bytes: Vec<u8>, file: &str) -> Result<Self> {
        let refuse = |reason: String| refused(file, format!("is no whole safetensors file: {reason}"));
        check_offsets(&bytes).map_err(refuse)?;
        let (header, parsed) = SafeTensors::read_metadata(&bytes).map_err(|e| refuse(e.to_string()))?;
        let first = LENGTH_BYTES + header;
        let mut entries: Vec<Entry> = vec![];
        for (name, info) in parsed.tensors() {
            let (start, end) = (first + info.data_offsets.0, first + info.data_offsets.1);
            entries.push(Entry { name, dtype: info.dtype, shape: info.shape.clone(), start, end });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let metadata = parsed.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Self { file: file.to_string(), bytes, metadata, entries })
    }

    /// The header's own key-value pairs.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The bytes of a tensor of this file, little-endian and row-major.
    pub fn data(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.start..entry.end]
    }

    /// The numbers of a single-precision tensor of a known shape.
    ///
    /// # Errors
    /// [`Error::Format`] where it is missing, or of another type or shape.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let entry = self.entries.binary_search_by(|e| e.name.as_str().cmp(name)).ok().map(|i| &self.entries[i]);
        match entry {
            Some(e) if e.dtype == Dtype::F32 && e.shape == shape => {
                Ok(self.data(e).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
            }
            other => {
                let got = other.map_or("missing".to_string(), |e| format!("{} {:?}", e.dtype, e.shape));
                Err(refused(&self.file, format!("tensor `{name}` is {got}, expected F32 {shape:?}")))
            }
        }
    }

    /// Each tensor's summary, sorted by name.
    pub fn inspect(&self) -> Vec<Summary> {
        self.entries.iter().map(|e| Summary::of(e, self.data(e))).collect()
    }
}

/// What `hecate inspect` says about a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Name.
    pub name: String,
    /// Type of its numbers, as the file calls it.
    pub dtype: String,
    /// Shape, slowest axis first.
    pub shape: Vec<usize>,
    /// Size in the file.
    pub bytes: usize,
    /// Statistics, for the types that are understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Values>,
}

/// Statistics of a tensor's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Values {
    /// Euclidean norm of the finite ones.
    pub norm: f64,
    /// Largest magnitude of the finite ones.
    pub max_abs: f64,
    /// How many are infinite or not a number.
    pub non_finite: usize,
}

impl Summary {
    fn of(entry: &Entry, data: &[u8]) -> Self {
        Self {
            name: entry.name.clone(),
            dtype: entry.dtype.to_string(),
            shape: entry.shape.clone(),
            bytes: data.len(),
            values: Values::of(entry.dtype, data),
        }
    }
}

impl Values {
    /// `None` for types of less than a byte and for eight-bit floats.
    fn of(dtype: Dtype, data: &[u8]) -> Option<Self> {
        fn each<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Values {
            let mut values = Values::default();
            // The sum of squares is scaled by the largest magnitude, so that it cannot overflow.
            let numbers = || data.as_chunks::<N>().0.iter().map(|&b| number(b));
            values.max_abs = numbers().filter(|x| x.is_finite()).fold(0.0, |m, x| x.abs().max(m));
            values.non_finite = numbers().filter(|x| !x.is_finite()).count();
            if values.max_abs > 0.0 {
                let squares = numbers().filter(|x| x.is_finite()).map(|x| (x / values.max_abs).powi(2));
                values.norm = values.max_abs * squares.sum::<f64>().sqrt();
            }
            values
        }
        Some(match dtype {
            Dtype::F64 => each(data, f64::from_le_bytes),
            Dtype::F32 => each(data, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::BF16 => each(data, |b| f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))),
            Dtype::F16 => each(data, |b| half(u16::from_le_bytes(b))),
            Dtype::I64 => each(data, |b| i64::from_le_bytes(b) as f64),
            Dtype::U64 => each(data, |b| u64::from_le_bytes(b) as f64),
            Dtype::I32 => each(data, |b| f64::from(i32::from_le_bytes(b))),
            Dtype::U32 => each(data, |b| f64::from(u32::from_le_bytes(b))),
            Dtype::I16 => each(data, |b| f64::from(i16::from_le_bytes(b))),
            Dtype::U16 => each(data, |b| f64::from(u16::from_le_bytes(b))),
            Dtype::I8 => each(data, |b| f64::from(i8::from_le_bytes(b))),
            Dtype::U8 | Dtype::BOOL => each(data, |b: [u8; 1]| f64::from(b[0])),
            _ => return None,
        })
    }
}

/// The value of an IEEE half-precision number.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        e => (1.0 + fraction / 1024.0) * 2f64.powi(e - 15),
    }
}

/// Header and data; `None` where the bytes end before the header does.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// Refuses offsets outside of the file before anyone adds them up.
fn check_offsets(bytes: &[u8]) -> Result<(), String> {
    let (header, data) = split(bytes).ok_or("it ends before its header does")?;
    if header.len() > MAX_HEADER_BYTES {
        return Err(format!("a header of {} bytes is too large", header.len()));
    }
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|e| format!("the header is not JSON: {e}"))?;
    for (name, info) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let offset = |i| info.get("data_offsets").and_then(|o| o.get(i)).and_then(serde_json::Value::as_u64);
        let (Some(start), Some(end)) = (offset(0), offset(1)) else {
            return Err(format!("tensor `{name}` has no offsets"));
        };
        if start > end || end > data.len() as u64 {
            return Err(format!("tensor `{name}` lies at bytes {start}..{end} of {}", data.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "m.safetensors";

    fn metadata() -> BTreeMap<String, String> {
        (0..20).map(|i| (format!("key{i}"), format!("value \"{i}\" —"))).collect()
    }

    fn tensors() -> Vec<Tensor<'static>> {
        let runs = Data::F32(vec![&[1.0, -2.0], &[], &[3.0, 0.0, 0.5, -0.0]]);
        vec![
            Tensor { name: "b.weight".into(), shape: vec![2, 3], data: runs },
            Tensor::f32("a", &[0, 4], &[]),
            Tensor { name: "steps".into(), shape: vec![], data: Data::Bytes(Dtype::U64, &[7, 0, 0, 0, 0, 0, 0, 0]) },
        ]
    }

    fn encode(file: &str, tensors: Vec<Tensor<'_>>, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        Encoding::new(file, tensors, metadata).map(|encoding| encoding.to_vec())
    }

    /// A file with this header and so many bytes of data.
    fn raw(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data][..]].concat()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = TensorFile::parse(encode(FILE, tensors(), &metadata()).unwrap(), FILE).unwrap();
        assert_eq!(file.metadata(), &metadata());
        assert_eq!(file.entries().iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["a", "b.weight", "steps"]);
        assert_eq!(file.f32("b.weight", &[2, 3]).unwrap(), [1.0, -2.0, 3.0, 0.0, 0.5, -0.0]);
        assert!(file.f32("a", &[0, 4]).unwrap().is_empty());
        assert_eq!(file.data(&file.entries()[2]), 7u64.to_le_bytes());
    }

    #[test]
    fn equal_content_is_equal_bytes_and_the_data_is_aligned() {
        let once = encode(FILE, tensors(), &metadata()).unwrap();
        let mut turned = tensors();
        turned.reverse();
        assert_eq!(encode(FILE, turned, &metadata()).unwrap(), once);
        assert_eq!(u64::from_le_bytes(once[..8].try_into().unwrap()) % 8, 0);
        let empty = encode(FILE, vec![], &BTreeMap::new()).unwrap();
        assert!(TensorFile::parse(empty, FILE).unwrap().entries().is_empty());
    }

    #[test]
    fn numbers_in_many_pieces_are_written_in_order_and_the_length_is_known_before() {
        let values: Vec<f32> = (0..2 * PIECE + 3).map(|i| i as f32).collect();
        let (left, right) = values.split_at(PIECE + 1);
        let tensor = Tensor { name: "w".into(), shape: vec![values.len()], data: Data::F32(vec![left, right]) };
        let encoding = Encoding::new(FILE, vec![tensor], &metadata()).unwrap();
        let bytes = encoding.to_vec();
        assert_eq!(bytes.len(), encoding.len_bytes());
        assert_eq!(TensorFile::parse(bytes, FILE).unwrap().f32("w", &[values.len()]).unwrap(), values);
    }

    #[test]
    fn a_tensor_that_does_not_fit_is_described() {
        let file = TensorFile::parse(encode(FILE, tensors(), &metadata()).unwrap(), FILE).unwrap();
        let line = |name, shape: &[usize]| file.f32(name, shape).unwrap_err().to_string();
        assert_eq!(line("b.weight", &[3, 2]), "m.safetensors: tensor `b.weight` is F32 [2, 3], expected F32 [3, 2]");
        assert_eq!(line("steps", &[]), "m.safetensors: tensor `steps` is U64 [], expected F32 []");
        assert_eq!(line("zzz", &[1]), "m.safetensors: tensor `zzz` is missing, expected F32 [1]");
    }

    #[test]
    fn a_tensor_that_cannot_be_written_is_refused() {
        let line = |t: Vec<Tensor>| encode(FILE, t, &metadata()).unwrap_err().to_string();
        assert!(line(vec![Tensor::f32("a", &[3], &[1.0])]).contains("tensor `a`"));
        let twice = Tensor::f32("a", &[1], &[1.0]);
        assert!(line(vec![twice.clone(), twice]).contains("the name `a` is taken"));
        assert!(line(vec![Tensor::f32("__metadata__", &[1], &[1.0])]).contains("`__metadata__` is taken"));
    }

    #[test]
    fn a_file_cut_anywhere_is_one_clear_line() {
        let whole = encode(FILE, tensors(), &metadata()).unwrap();
        for length in 0..whole.len() {
            let line = TensorFile::parse(whole[..length].to_vec(), FILE).unwrap_err().to_string();
            assert!(
                line.starts_with("m.safetensors: is no whole safetensors file: ") && !line.contains('\n'),
                "{line}"
            );
        }
        assert!(TensorFile::parse([&whole[..], &[0]].concat(), FILE).is_err(), "a byte too many");
    }

    #[test]
    fn a_hostile_header_ends_in_an_error_and_not_in_a_panic() {
        let near_wrap = 2u64.pow(61) - 1;
        let wrapping: Vec<String> = (0..8)
            .map(|i: u64| {
                let (start, end) = (i.wrapping_mul(near_wrap), (i + 1).wrapping_mul(near_wrap));
                format!("\"t{i}\":{{\"dtype\":\"U8\",\"shape\":[{near_wrap}],\"data_offsets\":[{start},{end}]}}")
            })
            .collect();
        let one = |dtype: &str, shape: &str, offsets: &str| {
            format!("{{\"a\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":{offsets}}}}}")
        };
        let headers = [
            format!("{{{}}}", wrapping.join(",")),
            one("F32", "[4294967296,4294967296,4294967296]", "[0,8]"),
            one("F32", "[2]", "[8,0]"),
            one("F32", "[2]", "[0,99]"),
            one("F32", "[3]", "[0,8]"),
            one("F33", "[2]", "[0,8]"),
            one("F32", "[-1]", "[0,8]"),
            one("F32", "[2]", "[0]"),
            "[]".to_string(),
            "{".to_string(),
            "[".repeat(100_000),
            "{\"a\":1}".to_string(),
            "{\"__metadata__\":{\"a\":1}}".to_string(),
        ];
        for header in headers {
            assert!(TensorFile::parse(raw(&header, 8), FILE).is_err(), "{:.80}", header);
        }
        for length in [u64::MAX, 1 << 62, 9] {
            let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
            assert!(TensorFile::parse(bytes, FILE).is_err());
        }
    }

    #[test]
    fn flipping_any_bit_of_the_header_never_panics() {
        let whole = encode(FILE, tensors(), &BTreeMap::new()).unwrap();
        let header = whole.len() - 8 - 24;
        for bit in 0..8 * (8 + header) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(file) = TensorFile::parse(bytes, FILE) {
                file.inspect();
            }
        }
    }

    #[test]
    fn inspection_gives_norms_and_counts_what_is_not_finite() {
        let values = [3.0, -4.0, f32::NAN, f32::NEG_INFINITY];
        let file = encode(FILE, vec![Tensor::f32("w", &[4], &values)], &BTreeMap::new()).unwrap();
        let summary = TensorFile::parse(file, FILE).unwrap().inspect().remove(0);
        assert_eq!((summary.dtype.as_str(), summary.shape.as_slice(), summary.bytes), ("F32", &[4][..], 16));
        assert_eq!(summary.values, Some(Values { norm: 5.0, max_abs: 4.0, non_finite: 2 }));
    }

    #[test]
    fn every_type_of_number_is_understood() {
        let of = |dtype, data: &[u8]| Values::of(dtype, data).unwrap();
        assert_eq!(of(Dtype::F16, &[0x00, 0xc0, 0x01, 0x00]).max_abs, 2.0);
        assert_eq!(half(0x0001), 2f64.powi(-24));
        assert_eq!((half(0x3c00), half(0x7bff), half(0xfc00)), (1.0, 65504.0, f64::NEG_INFINITY));
        assert_eq!(of(Dtype::F16, &[0x00, 0x7e]).non_finite, 1);
        assert_eq!(of(Dtype::BF16, &[0x80, 0xbf]).norm, 1.0);
        assert_eq!(of(Dtype::F64, &1e300f64.to_le_bytes().repeat(4)).norm, 2e300);
        assert_eq!(of(Dtype::I8, &[0x80]).norm, 128.0);
        assert_eq!(of(Dtype::BOOL, &[1, 0, 1, 1, 1]).norm, 2.0);
        assert_eq!(Values::of(Dtype::F8_E4M3, &[1]), None);
    }
}
