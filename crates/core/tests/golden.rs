//! The references against golden vectors: those of the project's own oracle (`oracle/`), which every registered
//! rule must have, and those of the specification where it has some.

#[path = "golden/queries.rs"]
mod queries;

use hecate_core::rules::Titans;
use hecate_core::scan::{ScanShape, Write, reference_backward, reference_forward};
use hecate_core::{Activation, AnyRule, Dims, MemoryRule, Start, StateTensor};
use queries::{length, query_backward};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// Both sides are float64 and sum a few hundred terms of order one; 1e-10 leaves room for the order of sums alone.
const TOLERANCE: f64 = 1e-10;

/// One array of a golden file.
#[derive(Clone)]
struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
}

/// The arrays of a golden file by name; a case of a file with several is a prefix of the names.
struct Golden {
    arrays: BTreeMap<String, Array>,
    place: String,
    /// The rule of a case, as a config file writes it.
    settings: Option<Value>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Names of the golden files of a folder.
fn files(name: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder(name)).expect("the folder is committed");
    let file = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    entries.map(file).filter_map(|file| file.strip_suffix(".safetensors").map(str::to_string)).collect()
}

/// The arrays of a file, and its metadata.
fn load(file: &str) -> Option<(BTreeMap<String, Array>, HashMap<String, String>)> {
    let bytes = std::fs::read(folder(file)).ok()?;
    let tensors = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{file}: {e}"));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{file}: {e}"));
    let array = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        assert_eq!(view.dtype(), Dtype::F64, "{file}: {name}");
        let number = |b: &[u8]| f64::from_le_bytes(b.try_into().expect("chunks of eight bytes"));
        let data = view.data().chunks_exact(8).map(number).collect();
        (name, Array { shape: view.shape().to_vec(), data })
    };
    let metadata = header.metadata().clone().unwrap_or_default();
    Some((tensors.tensors().into_iter().map(array).collect(), metadata))
}

impl Golden {
    fn whole(file: &str) -> Golden {
        let (arrays, _) = load(file).unwrap_or_else(|| panic!("{file} is committed"));
        Golden { arrays, place: file.to_string(), settings: None }
    }

    /// The cases of a file whose names are `case.name`.
    fn cases(file: &str) -> Option<Vec<Golden>> {
        let (arrays, metadata) = load(file)?;
        let mut cases: BTreeMap<String, BTreeMap<String, Array>> = BTreeMap::new();
        for (name, array) in arrays {
            let (case, name) = name.split_once('.').expect("names are case.name");
            cases.entry(case.to_string()).or_default().insert(name.to_string(), array);
        }
        let named = |(case, arrays): (String, _)| {
            let settings = metadata.get(&case).unwrap_or_else(|| panic!("{file} does not say what {case} is"));
            let settings = serde_json::from_str(settings).unwrap_or_else(|e| panic!("{file}, {case}: {e}"));
            Golden { arrays, place: format!("{file}, {case}"), settings: Some(settings) }
        };
        Some(cases.into_iter().map(named).collect())
    }

    fn find(&self, name: &str) -> Option<&[f64]> {
        self.arrays.get(name).map(|a| &a.data[..])
    }
    fn get(&self, name: &str) -> &[f64] {
        self.find(name).unwrap_or_else(|| panic!("{} has no `{name}`", self.place))
    }
    fn shape(&self, name: &str) -> &[usize] {
        self.get(name);
        &self.arrays[name].shape
    }
    fn dims(&self) -> Dims {
        let key = if self.find("in.q").is_some() { "in.q" } else { "in.x" };
        Dims::new(self.shape(key)[1], self.shape("Y")[1])
    }
    /// The rule of a case, if it exists at these sizes.
    fn rule(&self) -> Result<AnyRule, String> {
        let settings = self.settings.clone().expect("cases have settings");
        let rule: AnyRule = serde_json::from_value(settings).map_err(|e| format!("{}: {e}", self.place))?;
        rule.check(self.dims()).map_err(|e| format!("{}: {e}", self.place))?;
        Ok(rule)
    }

    fn compare(&self, name: &str, got: &[f64], want: &[f64]) -> Result<(), String> {
        let place = &self.place;
        if got.len() != want.len() {
            return Err(format!("{place}: {name} has {} values, golden {}", got.len(), want.len()));
        }
        let scale = want.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let off = (got - want).abs();
            // In this order a NaN is no match.
            let close = off <= TOLERANCE * scale;
            if !close {
                return Err(format!("{place}: {name}[{i}] is {got}, golden {want}, off by {off:e}"));
            }
        }
        Ok(())
    }
}

/// Everything that a stream gives.
struct Stream {
    y: Vec<f64>,
    end: Vec<f64>,
    dinputs: Vec<Vec<f64>>,
    dstart: Vec<f64>,
}

/// One head's stream through the reference, forward and backward.
fn stream(rule: &AnyRule, d: Dims, inputs: &[&[f64]], start: &[f64], dy: &[f64], dend: &[f64]) -> Stream {
    let s = ScanShape { heads: 1, tokens: dy.len() / d.dv, dims: d, pos: 0 };
    let (mut y, mut end) = (vec![f64::NAN; dy.len()], start.to_vec());
    let mut saved = vec![f64::NAN; s.checkpoints() * start.len()];
    reference_forward(rule, s, inputs, &mut end, &mut y, Some(&mut saved), Write::Yes);
    let mut dinputs: Vec<Vec<f64>> = inputs.iter().map(|x| vec![0.0; x.len()]).collect();
    let mut refs: Vec<&mut [f64]> = dinputs.iter_mut().map(|x| &mut x[..]).collect();
    let mut dstart = dend.to_vec();
    reference_backward(rule, s, inputs, &saved, dy, &mut refs, &mut dstart);
    Stream { y, end, dinputs, dstart }
}

/// What a file says about the state of a rule, where it does not say it in the rule's own terms.
trait Terms {
    /// The file's name of a state tensor.
    fn alias(&self, tensor: &str) -> String {
        tensor.to_string()
    }
    /// A start as the file gives it, in the rule's terms.
    fn start(&self, _tensor: &StateTensor, given: &[f64]) -> Vec<f64> {
        given.to_vec()
    }
    /// An end of the rule in the file's terms.
    fn end(&self, _tensor: &StateTensor, got: &[f64]) -> Vec<f64> {
        got.to_vec()
    }
    /// The gradient of a start as the file gives it, in the rule's terms.
    fn dstart(&self, _tensor: &StateTensor, _given: &[f64], gradient: &[f64]) -> Vec<f64> {
        gradient.to_vec()
    }
}

/// The rule's own terms.
struct Same;
impl Terms for Same {}

/// Where the momentum is named after the tensor that it moves.
struct Moved;
impl Terms for Moved {
    fn alias(&self, tensor: &str) -> String {
        if tensor == "S" { "S_W".to_string() } else { tensor.to_string() }
    }
}

/// Where the state is given as weights c softmax(Z) and the rule holds the logits Z.
struct Weights;
impl Terms for Weights {
    fn start(&self, _tensor: &StateTensor, given: &[f64]) -> Vec<f64> {
        given.iter().map(|w| w.ln()).collect()
    }
    fn end(&self, tensor: &StateTensor, got: &[f64]) -> Vec<f64> {
        let row = |z: &[f64]| {
            let total: f64 = z.iter().map(|z| z.exp()).sum();
            z.iter().map(|z| z.exp() * tensor.shape[1] as f64 / total).collect::<Vec<_>>()
        };
        got.chunks_exact(tensor.shape[1]).flat_map(row).collect()
    }
    /// The transpose of the softmax: what moves a whole row moves no weight.
    fn dstart(&self, tensor: &StateTensor, given: &[f64], gradient: &[f64]) -> Vec<f64> {
        let n = tensor.shape[1];
        let row = |(w, g): (&[f64], &[f64])| {
            let along: f64 = w.iter().zip(g).map(|(w, g)| w * g).sum();
            w.iter().zip(g).map(|(w, g)| w * (g - along / n as f64)).collect::<Vec<_>>()
        };
        given.chunks_exact(n).zip(gradient.chunks_exact(n)).flat_map(row).collect()
    }
}

/// Runs one case and compares every array that it has; gives back the names that were used.
fn check_case(rule: &AnyRule, golden: &Golden, terms: &dyn Terms) -> Result<BTreeSet<String>, String> {
    let d = golden.dims();
    let mut used = BTreeSet::from(["Y".to_string(), "dY".to_string()]);
    let mut name = |group: &str, of: &str| {
        let name = format!("{group}.{of}");
        used.insert(name.clone());
        name
    };
    let list = rule.inputs();
    let mut inputs: Vec<&[f64]> = Vec::new();
    for input in &list {
        let name = name("in", input.name);
        inputs.push(golden.find(&name).ok_or_else(|| format!("{} has no `{name}`", golden.place))?);
    }
    let state = rule.state(d);
    let (mut start, mut dend) = (Vec::new(), Vec::new());
    for tensor in &state {
        // A start state or an end cotangent that a file does not hold is zero there; an inverse covariance one.
        let zeros = vec![0.0; tensor.len()];
        let own = match tensor.start {
            Start::Identity(scale) => identity(tensor.shape[0], scale),
            _ => zeros.clone(),
        };
        let of = terms.alias(&tensor.name);
        start.extend(golden.find(&name("state0", &of)).map_or(own, |given| terms.start(tensor, given)));
        dend.extend(golden.find(&name("dEnd", &of)).unwrap_or(&zeros));
    }
    if start.len() != rule.state_len(d) {
        return Err(format!("{}: the start has {} values, the rule {}", golden.place, start.len(), rule.state_len(d)));
    }

    let got = stream(rule, d, &inputs, &start, golden.get("dY"), &dend);

    golden.compare("Y", &got.y, golden.get("Y"))?;
    for (input, gradient) in list.iter().zip(&got.dinputs) {
        let name = name("din", input.name);
        golden.compare(&name, gradient, golden.get(&name))?;
    }
    let mut at = 0;
    for tensor in &state {
        let of = terms.alias(&tensor.name);
        let here = at..at + tensor.len();
        let (end, dstart) = (name("end", &of), name("dstate0", &of));
        if let Some(want) = golden.find(&end) {
            golden.compare(&end, &terms.end(tensor, &got.end[here.clone()]), want)?;
        }
        if let Some(want) = golden.find(&dstart) {
            let want = terms.dstart(tensor, golden.get(&name("state0", &of)), want);
            golden.compare(&dstart, &got.dstart[here], &want)?;
        }
        at += tensor.len();
    }
    Ok(used)
}

fn identity(n: usize, scale: f64) -> Vec<f64> {
    (0..n * n).map(|i| if i / n == i % n { scale } else { 0.0 }).collect()
}

/// Nothing in a golden file may go unread: an array that no comparison used would be no evidence.
fn expect_all_used(golden: &Golden, used: &BTreeSet<String>) -> Result<(), String> {
    match golden.arrays.keys().find(|name| !used.contains(*name)) {
        Some(name) => Err(format!("{}: `{name}` was compared with nothing", golden.place)),
        None => Ok(()),
    }
}

/// Every case is run before any failure is told, so that one run shows all of them.
fn expect_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} cases differ:\n{}", failures.len(), failures.join("\n"));
}

/// One case of the oracle, which holds everything about every tensor of the state.
fn check_oracle_case(rule: &AnyRule, case: &Golden) -> Result<(), String> {
    for tensor in rule.state(case.dims()) {
        for group in ["state0", "end", "dEnd", "dstate0"] {
            let name = format!("{group}.{}", tensor.name);
            match case.arrays.get(&name) {
                None => return Err(format!("{} has no `{name}`", case.place)),
                Some(a) if a.shape != tensor.shape => {
                    return Err(format!("{}: `{name}` is {:?}, golden {:?}", case.place, tensor.shape, a.shape));
                }
                Some(_) => {}
            }
        }
    }
    expect_all_used(case, &check_case(rule, case, &Same)?)
}

#[test]
fn every_rule_reproduces_the_oracle() {
    let mut failures = Vec::new();
    for rule in AnyRule::all() {
        let (name, file) = (rule.name(), format!("oracle/{}.safetensors", rule.name()));
        let Some(cases) = Golden::cases(&file) else {
            failures.push(format!("{name} has no {file}; see oracle/README.md"));
            continue;
        };
        // What a memory makes of a share of the stream is as wide as that.
        let shares = rule.inputs().iter().any(|i| i.activation == Activation::Share);
        if !shares && !cases.iter().any(|c| c.dims().dk != c.dims().dv) {
            failures.push(format!("{file}: no case has d_k != d_v"));
        }
        // Otherwise nothing would pin what the name alone stands for.
        if !cases.iter().any(|c| c.settings == Some(json!({"name": name}))) {
            failures.push(format!("{file}: no case has the settings of `{name}` itself"));
        }
        for case in &cases {
            let of = |rule: AnyRule| match rule.name() == name {
                true => check_oracle_case(&rule, case),
                false => Err(format!("{} is about `{}`", case.place, rule.name())),
            };
            failures.extend(case.rule().and_then(of).err());
        }
    }
    expect_none(&failures);
}

#[test]
fn every_file_of_the_oracle_belongs_to_a_rule() {
    let names = AnyRule::names();
    let strangers: Vec<String> = files("oracle").into_iter().filter(|name| !names.contains(&&name[..])).collect();
    assert!(strangers.is_empty(), "no rule is called {}", strangers.join(", "));
}

/// Where a file of the specification is not the rule at its own settings.
fn specified(name: &str) -> Value {
    match name {
        "moneta_literal" => json!({"retention": {"name": "lq_literal", "q": 4.0, "floor": 1e-3}}),
        "tnt" => json!({
            "global_chunk": 8, "locals": [4, 2], "shard": 8,
            "projection": "shard_raw", "shared_rate": true, "shared_start": true,
        }),
        "titans_mlp" | "yaad" | "memora" => json!({"chunk": 1}),
        "omeganet" | "atlas" => json!({"structure": "matrix", "features": "none", "window": 4, "chunk": 1}),
        _ => json!({}),
    }
}

#[test]
fn every_rule_reproduces_the_vectors_of_the_specification() {
    let mut failures = Vec::new();
    for name in files("spec").into_iter().filter(|name| name != "titans_and_hope") {
        let mut settings = specified(&name);
        settings["name"] = json!(name);
        let golden = Golden { settings: Some(settings), ..Golden::whole(&format!("spec/{name}.safetensors")) };
        let terms: &dyn Terms = match &name[..] {
            "memora" => &Weights,
            "titans" => &Moved,
            _ => &Same,
        };
        let compare = |rule: AnyRule| expect_all_used(&golden, &check_case(&rule, &golden, terms)?);
        failures.extend(golden.rule().and_then(compare).err());
    }
    expect_none(&failures);
}

/// The `lmm_*` vectors in our terms. They are written in the letters of the Titans paper with the inner loss
/// |M(k) - v|^2, whose gradient carries a 2: our `rate` is twice their theta. Their alpha forgets, so `retain` is
/// 1 - alpha; their eta is `momentum`. Their matrices are listed from the input, ours from the output.
struct Lmm {
    golden: Golden,
    /// `lin`, `mlp2` or `mlp3`.
    memory: &'static str,
    inputs: Vec<Vec<f64>>,
    /// Sizes of the matrices, from the output.
    sizes: Vec<usize>,
    start: Vec<f64>,
    d: Dims,
}

impl Lmm {
    fn load(memory: &'static str, layers: usize) -> Lmm {
        let golden = Golden::whole("spec/titans_and_hope.safetensors");
        let name = |name: &str| format!("lmm_{memory}_in_{name}");
        let of = |of: &str| golden.get(&name(of)).to_vec();
        let retain = of("alpha").iter().map(|a| 1.0 - a).collect();
        let rate = of("theta").iter().map(|t| 2.0 * t).collect();
        let inputs = vec![of("k"), of("v"), of("q"), retain, rate, of("eta")];
        let d = Dims::new(golden.shape(&name("k"))[1], golden.shape(&name("v"))[1]);
        let matrices: Vec<Vec<f64>> = (0..layers).rev().map(|i| of(&format!("M0_{i}"))).collect();
        let sizes = matrices.iter().map(Vec::len).collect();
        Lmm { memory, inputs, sizes, start: matrices.concat(), d, golden }
    }

    fn refs(&self) -> Vec<&[f64]> {
        self.inputs.iter().map(|x| &x[..]).collect()
    }

    /// The start of a rule whose state begins with the matrices; momentum and anchors are zero.
    fn state(&self, len: usize) -> Vec<f64> {
        let mut state = self.start.clone();
        state.resize(len, 0.0);
        state
    }

    /// The gradient of the reads. The objective is sum(sin(y)).
    fn dy(&self, chunk: usize, read: &str) -> Vec<f64> {
        self.golden.get(&format!("lmm_{}_C{chunk}_{read}_y", self.memory)).iter().map(|y| y.cos()).collect()
    }

    /// Compares one chunk length and read mode; gives back the names that were used.
    fn compare(&self, chunk: usize, read: &str, got: &Stream) -> Result<BTreeSet<String>, String> {
        let mut used = BTreeSet::new();
        let mut compare = |name: &str, got: &[f64]| {
            let name = format!("lmm_{}_C{chunk}_{read}_{name}", self.memory);
            self.golden.compare(&name, got, self.golden.get(&name))?;
            used.insert(name);
            Ok::<(), String>(())
        };
        compare("y", &got.y)?;
        for (i, name) in ["k", "v", "q"].into_iter().enumerate() {
            compare(&format!("g_{name}"), &got.dinputs[i])?;
        }
        let scaled = |i: usize, by: f64| got.dinputs[i].iter().map(|x| by * x).collect::<Vec<_>>();
        compare("g_alpha", &scaled(3, -1.0))?;
        compare("g_theta", &scaled(4, 2.0))?;
        compare("g_eta", &scaled(5, 1.0))?;
        let mut at = 0;
        for (i, size) in self.sizes.iter().enumerate() {
            let from_input = self.sizes.len() - 1 - i;
            compare(&format!("M{from_input}"), &got.end[at..at + size])?;
            compare(&format!("g_M0_{from_input}"), &got.dstart[at..at + size])?;
            at += size;
        }
        Ok(used)
    }
}

#[test]
fn titans_reproduces_the_paper_lettered_vectors_that_read_after_writing() {
    let lmm = Lmm::load("lin", 1);
    let rule = AnyRule::from(Titans::default());
    let start = lmm.state(rule.state_len(lmm.d));
    let got = stream(&rule, lmm.d, &lmm.refs(), &start, &lmm.dy(1, "post"), &vec![0.0; start.len()]);
    lmm.compare(1, "post", &got).unwrap();
}

/// Reading before writing is not the rule's own order, but its two halves express it.
#[test]
fn titans_reproduces_the_paper_lettered_vectors_that_read_before_writing() {
    let lmm = Lmm::load("lin", 1);
    let (rule, d) = (Titans::default(), lmm.d);
    let tokens = lmm.inputs[3].len();
    let widths: Vec<usize> = lmm.inputs.iter().map(|x| x.len() / tokens).collect();
    let token =
        |t: usize| -> Vec<&[f64]> { lmm.inputs.iter().zip(&widths).map(|(x, w)| &x[t * w..(t + 1) * w]).collect() };

    let mut states = vec![lmm.state(rule.state(d).iter().map(StateTensor::len).sum())];
    let mut y = vec![f64::NAN; tokens * d.dv];
    for t in 0..tokens {
        let mut state = states[t].clone();
        rule.read(d, t as u64, &token(t), &state, &mut y[t * d.dv..(t + 1) * d.dv]);
        rule.write(d, t as u64, &token(t), &mut state);
        states.push(state);
    }
    let mut dinputs: Vec<Vec<f64>> = lmm.inputs.iter().map(|x| vec![0.0; x.len()]).collect();
    let mut dstate = vec![0.0; states[0].len()];
    for t in (0..tokens).rev() {
        let dy: Vec<f64> = y[t * d.dv..(t + 1) * d.dv].iter().map(|y| y.cos()).collect();
        let mut dx: Vec<&mut [f64]> =
            dinputs.iter_mut().zip(&widths).map(|(x, w)| &mut x[t * w..(t + 1) * w]).collect();
        rule.write_backward(d, t as u64, &token(t), &states[t], &mut dx, &mut dstate);
        rule.read_backward(d, t as u64, &token(t), &states[t], &dy, &mut dx, &mut dstate);
    }

    lmm.compare(1, "pre", &Stream { y, end: states[tokens].clone(), dinputs, dstart: dstate }).unwrap();
}

/// Matrix and deep memories, without chunks and in chunks of four, read in every order.
#[test]
fn miras_reproduces_the_paper_lettered_vectors() {
    let mut failures = Vec::new();
    let mut used = BTreeSet::new();
    for (memory, layers) in [("lin", 1), ("mlp2", 2), ("mlp3", 3)] {
        let lmm = Lmm::load(memory, layers);
        let structure = match layers {
            1 => json!("matrix"),
            _ => {
                json!({"name": "mlp", "layers": layers, "expansion": 2, "activation": "silu", "residual": false, "norm": false})
            }
        };
        for (chunk, read, order) in
            [(1, "post", "post"), (1, "pre", "pre"), (4, "post", "post"), (4, "boundary", "start")]
        {
            let settings = json!({"name": "miras", "structure": structure, "algorithm": "momentum", "chunk": chunk, "read": order});
            let rule: AnyRule = serde_json::from_value(settings).unwrap();
            let start = lmm.state(rule.state_len(lmm.d));
            let got = stream(&rule, lmm.d, &lmm.refs(), &start, &lmm.dy(chunk, read), &vec![0.0; start.len()]);
            match lmm.compare(chunk, read, &got) {
                Ok(names) => used.extend(names),
                Err(failure) => failures.push(failure),
            }
        }
        used.extend(lmm.golden.arrays.keys().filter(|n| n.starts_with(&format!("lmm_{memory}_in_"))).cloned());
    }
    expect_none(&failures);
    expect_all_used(&lettered("lmm_"), &used).unwrap();
}

/// The paper-lettered vectors whose names begin like that.
fn lettered(prefix: &str) -> Golden {
    let mut golden = Golden::whole("spec/titans_and_hope.safetensors");
    golden.arrays.retain(|name, _| name.starts_with(prefix));
    golden
}

/// Width of the hidden layers of the `sr_*` vectors, and of ours: units without weights have no effect and get none.
const HIDDEN: (usize, usize) = (6, 8);

/// A tensor of the `sr_*` vectors between our widths and theirs: rows of `from` units, of the hidden layer where the
/// tensor is its first.
fn rewidened(given: &[f64], first: bool, (from, to): (usize, usize)) -> Vec<f64> {
    if first {
        let mut rows = given.to_vec();
        rows.resize(given.len() / from * to, 0.0);
        return rows;
    }
    let row = |row: &[f64]| (0..to).map(|i| row.get(i).copied().unwrap_or(0.0)).collect::<Vec<f64>>();
    given.chunks_exact(from).flat_map(row).collect()
}

/// The `sr_*` vectors: memories [first layer, last layer] with names eta and alpha for the gates, alpha kept; a query
/// that is a projection of unit length; the objective sum(sin(y)).
#[test]
fn self_modifying_reproduces_the_paper_lettered_vectors() {
    let golden = lettered("sr_");
    let (x, wq) = (golden.get("sr_in_X").to_vec(), golden.get("sr_in_Wq").to_vec());
    let d = Dims::new(4, 4);
    let raw: Vec<f64> =
        x.chunks_exact(4).flat_map(|x| (0..4).map(|j| (0..4).map(|i| x[i] * wq[i * 4 + j]).sum::<f64>())).collect();
    let q: Vec<f64> = raw.chunks_exact(4).flat_map(|z| z.iter().map(|x| x / length(z))).collect();
    let theirs = |tensor: &str| {
        let (memory, layer) = tensor.split_once('_').expect("names are memory_W1 and memory_W2");
        let memory = match memory {
            "rate" => "eta",
            "retain" => "alpha",
            other => other,
        };
        format!("{memory}_{}", if layer == "W2" { 0 } else { 1 })
    };
    let mut used: BTreeSet<String> = golden.arrays.keys().filter(|n| n.starts_with("sr_in_")).cloned().collect();
    for (chunk, chunk_memory, precond) in
        [(1, 1, "per_layer"), (2, 4, "per_layer"), (2, 4, "first_only"), (3, 3, "none")]
    {
        let structure = json!({"name": "mlp", "expansion": 2, "activation": "silu", "norm": false});
        let rule: AnyRule = serde_json::from_value(json!({
            "name": "self_modifying", "structure": structure, "chunk": chunk, "chunk_memory": chunk_memory,
            "precond": precond, "targets": "raw", "rate_max": 0.5, "rate_scale": "none", "rate_bias": 0.0,
            "retain_bias": 0.0,
        }))
        .unwrap();
        let list = rule.state(d);
        let own = |t: &StateTensor| theirs(t.name.strip_prefix("anchor_").unwrap_or(&t.name));
        let start: Vec<f64> = list
            .iter()
            .flat_map(|t| rewidened(golden.get(&format!("sr_in_{}", own(t))), t.name.ends_with("W2"), HIDDEN))
            .collect();
        let case = format!("sr_{chunk}_{chunk_memory}_{precond}");
        let dy: Vec<f64> = golden.get(&format!("{case}_y")).iter().map(|y| y.cos()).collect();
        let got = stream(&rule, d, &[&x, &q], &start, &dy, &vec![0.0; start.len()]);

        let mut compare = |name: String, got: &[f64]| {
            golden.compare(&name, got, golden.get(&name)).unwrap();
            used.insert(name);
        };
        compare(format!("{case}_y"), &got.y);
        let mut dx = got.dinputs[0].clone();
        let dwq = query_backward((&x, &wq, &raw), &got.dinputs[1], &mut dx);
        compare(format!("{case}_g_X"), &dx);
        compare(format!("{case}_g_Wq"), &dwq);
        // A memory and its anchor start as one.
        let mut gradients: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut at = 0;
        for t in &list {
            let narrow = |x: &[f64]| match t.name.ends_with("W2") {
                true => x[..x.len() / HIDDEN.1 * HIDDEN.0].to_vec(),
                false => rewidened(x, false, (HIDDEN.1, HIDDEN.0)),
            };
            let here = at..at + t.len();
            if !t.name.starts_with("anchor_") {
                compare(format!("{case}_{}", own(t)), &narrow(&got.end[here.clone()]));
            }
            let sum = gradients.entry(own(t)).or_insert_with(|| vec![0.0; narrow(&got.dstart[here.clone()]).len()]);
            sum.iter_mut().zip(narrow(&got.dstart[here])).for_each(|(s, g)| *s += g);
            at += t.len();
        }
        for (name, gradient) in gradients {
            compare(format!("{case}_g_{name}"), &gradient);
        }
    }
    expect_all_used(&golden, &used).unwrap();
}
