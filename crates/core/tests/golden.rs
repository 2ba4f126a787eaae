//! The references against golden vectors: those of the project's own oracle (`oracle/`), which every registered
//! rule must have, and those of the specification where it has some.

use hecate_core::rules::Titans;
use hecate_core::scan::{ScanShape, Write, reference_backward, reference_forward};
use hecate_core::{AnyRule, Dims, MemoryRule};
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Both sides are float64 and sum a few hundred terms of order one; 1e-10 leaves room for the order of sums alone.
const TOLERANCE: f64 = 1e-10;

/// One array of a golden file.
struct Array {
    shape: Vec<usize>,
    data: Vec<f64>,
}

/// The arrays of a golden file by name; a case of a file with several is a prefix of the names.
struct Golden {
    arrays: BTreeMap<String, Array>,
    place: String,
}

impl Golden {
    fn load(file: &str) -> Option<Golden> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
        let bytes = std::fs::read(path).ok()?;
        let tensors = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{file}: {e}"));
        let array = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
            assert_eq!(view.dtype(), Dtype::F64, "{file}: {name}");
            let number = |b: &[u8]| f64::from_le_bytes(b.try_into().expect("chunks of eight bytes"));
            let data = view.data().chunks_exact(8).map(number).collect();
            (name, Array { shape: view.shape().to_vec(), data })
        };
        Some(Golden { arrays: tensors.tensors().into_iter().map(array).collect(), place: file.to_string() })
    }

    /// The cases of a file whose names are `case.name`.
    fn cases(self) -> Vec<Golden> {
        let mut cases: BTreeMap<String, BTreeMap<String, Array>> = BTreeMap::new();
        for (name, array) in self.arrays {
            let (case, name) = name.split_once('.').expect("names are case.name");
            cases.entry(case.to_string()).or_default().insert(name.to_string(), array);
        }
        let named = |(case, arrays)| Golden { arrays, place: format!("{}, {case}", self.place) };
        cases.into_iter().map(named).collect()
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

    fn compare(&self, name: &str, got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len(), "{}: size of {name}", self.place);
        let scale = want.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let off = (got - want).abs();
            assert!(off <= TOLERANCE * scale, "{}: {name}[{i}] is {got}, golden {want}, off by {off:e}", self.place);
        }
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

/// Runs one case and compares every array that it has; gives back the names that were used.
/// `alias` maps a state tensor's name to the file's.
fn check_case(rule: &AnyRule, golden: &Golden, alias: impl Fn(&str) -> String) -> BTreeSet<String> {
    let (dk, dv) = (golden.shape("in.k")[1], golden.shape("in.v")[1]);
    let d = Dims::new(dk, dv);
    let mut used = BTreeSet::from(["Y".to_string(), "dY".to_string()]);
    let mut name = |group: &str, of: &str| {
        let name = format!("{group}.{of}");
        used.insert(name.clone());
        name
    };
    let list = rule.inputs();
    let inputs: Vec<&[f64]> = list.iter().map(|i| golden.get(&name("in", i.name))).collect();
    let (mut start, mut dend) = (Vec::new(), Vec::new());
    for tensor in rule.state(d) {
        // A start state or an end cotangent that a file does not hold is zero there.
        let zeros = vec![0.0; tensor.len()];
        let of = alias(tensor.name);
        start.extend(golden.find(&name("state0", &of)).unwrap_or(&zeros));
        dend.extend(golden.find(&name("dEnd", &of)).unwrap_or(&zeros));
    }

    let got = stream(rule, d, &inputs, &start, golden.get("dY"), &dend);

    golden.compare("Y", &got.y, golden.get("Y"));
    for (input, gradient) in list.iter().zip(&got.dinputs) {
        let name = name("din", input.name);
        golden.compare(&name, gradient, golden.get(&name));
    }
    let mut at = 0;
    for tensor in rule.state(d) {
        let of = alias(tensor.name);
        let here = at..at + tensor.len();
        let (end, dstart) = (name("end", &of), name("dstate0", &of));
        golden.compare(&end, &got.end[here.clone()], golden.get(&end));
        if let Some(want) = golden.find(&dstart) {
            golden.compare(&dstart, &got.dstart[here], want);
        }
        at += tensor.len();
    }
    used
}

/// Nothing in a golden file may go unread: an array that no comparison used would be no evidence.
fn expect_all_used(golden: &Golden, used: &BTreeSet<String>) {
    for name in golden.arrays.keys() {
        assert!(used.contains(name), "{}: `{name}` was compared with nothing", golden.place);
    }
}

#[test]
fn every_rule_reproduces_the_oracle() {
    for rule in AnyRule::all() {
        let file = format!("oracle/{}.safetensors", rule.name());
        let golden =
            Golden::load(&file).unwrap_or_else(|| panic!("{} has no {file}; see oracle/README.md", rule.name()));
        let cases = golden.cases();
        assert!(cases.iter().any(|c| c.shape("in.k")[1] != c.shape("in.v")[1]), "{file}: no case has d_k != d_v");
        for case in cases {
            for tensor in rule.state(Dims::new(8, 8)) {
                for group in ["state0", "end", "dEnd", "dstate0"] {
                    case.get(&format!("{group}.{}", tensor.name));
                }
            }
            expect_all_used(&case, &check_case(&rule, &case, str::to_string));
        }
    }
}

#[test]
fn every_rule_reproduces_the_vectors_of_the_specification() {
    let mut compared = 0;
    for rule in AnyRule::all() {
        let Some(golden) = Golden::load(&format!("spec/{}.safetensors", rule.name())) else { continue };
        // There the momentum is named after the tensor that it moves.
        let alias = |name: &str| if name == "S" { "S_W".to_string() } else { name.to_string() };
        expect_all_used(&golden, &check_case(&rule, &golden, alias));
        compared += 1;
    }
    assert!(compared > 0, "no rule has a file under golden/spec");
}

/// The inputs of the `lmm_lin_C1_*` vectors in our terms. They are written in the letters of the Titans paper with
/// the inner loss |M k - v|^2, whose gradient carries a 2: our `rate` is twice their theta. Their alpha forgets, so
/// `retain` is 1 - alpha; their eta is `momentum`.
struct Lmm {
    golden: Golden,
    inputs: Vec<Vec<f64>>,
    start: Vec<f64>,
    d: Dims,
}

impl Lmm {
    fn load() -> Lmm {
        let golden = Golden::load("spec/titans_and_hope.safetensors").expect("the file is committed");
        let of = |name: &str| golden.get(&format!("lmm_lin_in_{name}")).to_vec();
        let retain = of("alpha").iter().map(|a| 1.0 - a).collect();
        let rate = of("theta").iter().map(|t| 2.0 * t).collect();
        let inputs = vec![of("k"), of("v"), of("q"), retain, rate, of("eta")];
        let d = Dims::new(golden.shape("lmm_lin_in_k")[1], golden.shape("lmm_lin_in_v")[1]);
        // The momentum starts at zero.
        let mut start = of("M0_0");
        start.resize(2 * d.dk * d.dv, 0.0);
        Lmm { golden, inputs, start, d }
    }

    fn refs(&self) -> Vec<&[f64]> {
        self.inputs.iter().map(|x| &x[..]).collect()
    }

    /// Compares one read mode. The objective there is sum(sin(y)), so dL/dy = cos(y).
    fn compare(&self, mode: &str, got: &Stream) {
        let g = &self.golden;
        let want = |name: &str| g.get(&format!("lmm_lin_C1_{mode}_{name}"));
        let n = self.d.dk * self.d.dv;
        g.compare("y", &got.y, want("y"));
        g.compare("end M", &got.end[..n], want("M0"));
        for (i, name) in ["k", "v", "q"].into_iter().enumerate() {
            g.compare(name, &got.dinputs[i], want(&format!("g_{name}")));
        }
        let scaled = |i: usize, by: f64| got.dinputs[i].iter().map(|x| by * x).collect::<Vec<_>>();
        g.compare("alpha", &scaled(3, -1.0), want("g_alpha"));
        g.compare("theta", &scaled(4, 2.0), want("g_theta"));
        g.compare("eta", &scaled(5, 1.0), want("g_eta"));
        g.compare("start M", &got.dstart[..n], want("g_M0_0"));
    }
}

#[test]
fn titans_reproduces_the_paper_lettered_vectors_that_read_after_writing() {
    let lmm = Lmm::load();
    let rule = AnyRule::from(Titans::default());
    let dy: Vec<f64> = lmm.golden.get("lmm_lin_C1_post_y").iter().map(|y| y.cos()).collect();
    let dend = vec![0.0; lmm.start.len()];
    lmm.compare("post", &stream(&rule, lmm.d, &lmm.refs(), &lmm.start, &dy, &dend));
}

/// Reading before writing is not the rule's own order, but its two halves express it.
#[test]
fn titans_reproduces_the_paper_lettered_vectors_that_read_before_writing() {
    let lmm = Lmm::load();
    let (rule, d) = (Titans::default(), lmm.d);
    let tokens = lmm.inputs[3].len();
    let widths: Vec<usize> = lmm.inputs.iter().map(|x| x.len() / tokens).collect();
    let token =
        |t: usize| -> Vec<&[f64]> { lmm.inputs.iter().zip(&widths).map(|(x, w)| &x[t * w..(t + 1) * w]).collect() };

    let mut states = vec![lmm.start.clone()];
    let mut y = vec![f64::NAN; tokens * d.dv];
    for t in 0..tokens {
        let mut state = states[t].clone();
        rule.read(d, t as u64, &token(t), &state, &mut y[t * d.dv..(t + 1) * d.dv]);
        rule.write(d, t as u64, &token(t), &mut state);
        states.push(state);
    }
    let mut dinputs: Vec<Vec<f64>> = lmm.inputs.iter().map(|x| vec![0.0; x.len()]).collect();
    let mut dstate = vec![0.0; lmm.start.len()];
    for t in (0..tokens).rev() {
        let dy: Vec<f64> = y[t * d.dv..(t + 1) * d.dv].iter().map(|y| y.cos()).collect();
        let mut dx: Vec<&mut [f64]> =
            dinputs.iter_mut().zip(&widths).map(|(x, w)| &mut x[t * w..(t + 1) * w]).collect();
        rule.write_backward(d, t as u64, &token(t), &states[t], &mut dx, &mut dstate);
        rule.read_backward(d, t as u64, &token(t), &states[t], &dy, &mut dx, &mut dstate);
    }

    lmm.compare("pre", &Stream { y, end: states[tokens].clone(), dinputs, dstart: dstate });
}
