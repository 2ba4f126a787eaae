//! Walks over the list: bits, threads, live settings, levels.

use crate::problem::{Problem, cases};
use hecate_core::ops::{Cpu, Reference};
use hecate_model::optim::{AnyOptimizer, Stepper};
use hecate_model::weights::{encode_optimizer, optimizer_from_bytes};
use hecate_model::{Init, Kind, ParamLayout, Params};
use serde_json::{Value, json};

/// Every case of every optimizer.
fn all() -> Vec<AnyOptimizer> {
    AnyOptimizer::all().iter().flat_map(|o| cases(o.name()).into_iter().map(|(.., settings)| settings)).collect()
}

fn bits(params: &Params<f32>) -> Vec<u32> {
    params.data.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_run_that_is_saved_and_resumed_at_any_step_has_the_bits_of_one_that_never_stopped() {
    let (problem, ops) = (Problem::load(), Cpu::training());
    for optimizer in all() {
        let whole = problem.walk(&ops, &optimizer);
        let (mut stepper, mut params): (Stepper<f32>, _) = (problem.stepper(&optimizer), problem.start());
        for t in 0..problem.steps() {
            let bytes = encode_optimizer(&stepper).unwrap().to_vec();
            let mut resumed = Stepper::new(optimizer.clone(), &problem.layout, 99, |_| true);
            optimizer_from_bytes(bytes.clone(), &mut resumed).unwrap();
            assert_eq!(resumed, stepper, "{} at step {t}", optimizer.name());
            assert_eq!(encode_optimizer(&resumed).unwrap().to_vec(), bytes);
            stepper = resumed;
            problem.step(&ops, &mut stepper, &mut params, t);
        }
        assert_eq!(bits(&params), bits(&whole.1), "{}", optimizer.name());
        assert_eq!(stepper, whole.0);
        assert!(params.data.iter().all(|x| x.is_finite()));
    }
}

#[test]
fn a_file_of_another_optimizer_or_of_other_settings_is_refused() {
    let problem = Problem::load();
    let of = |value: Value| problem.stepper::<f32>(&serde_json::from_value(value).unwrap());
    let file = encode_optimizer(&of(json!({"name": "muon"}))).unwrap().to_vec();
    let refused = |value: Value| optimizer_from_bytes(file.clone(), &mut of(value)).unwrap_err().to_string();
    assert!(refused(json!({"name": "adamw"})).contains("hecate-muon 1"));
    let file = encode_optimizer(&of(json!({"name": "m3"}))).unwrap().to_vec();
    let mut other = of(json!({"name": "m3", "form": "ema_v"}));
    assert!(optimizer_from_bytes(file, &mut other).unwrap_err().to_string().contains("tensors"));
}

/// The format that checkpoints have had from the start.
#[test]
fn adamw_writes_the_names_and_counts_that_it_always_wrote() {
    let mut layout = ParamLayout::default();
    layout.add("a".into(), &[2, 3], Kind::Matrix, Init::Constant(1.0));
    layout.add("b".into(), &[3], Kind::Norm, Init::Constant(1.0));
    let mut stepper = Stepper::<f32>::new(AnyOptimizer::default(), &layout, 0, |_| true);
    stepper.set_steps(&[3, 3]);
    let read = |stepper: &Stepper<f32>| {
        let bytes = encode_optimizer(stepper).unwrap().to_vec();
        let file = hecate_model::tensorfile::TensorFile::parse(bytes, "o").unwrap();
        let names: Vec<_> = file.entries().iter().map(|e| (e.name.clone(), e.shape.clone())).collect();
        (file.metadata().clone(), names)
    };
    let (header, names) = read(&stepper);
    assert_eq!((header["format"].as_str(), header["steps"].as_str()), ("hecate-adamw 1", "3"));
    let want = [("m.a", vec![2, 3]), ("m.b", vec![3]), ("v.a", vec![2, 3]), ("v.b", vec![3])];
    assert_eq!(names, want.map(|(n, s)| (n.to_string(), s)));
    stepper.set_steps(&[3, 1]);
    assert_eq!(read(&stepper).0["steps"], r#"{"a":3,"b":1}"#);
}

/// The bits that AdamW had when it was the only one.
#[test]
fn adamw_keeps_its_bits() {
    let (problem, ops) = (Problem::load(), Cpu::training());
    let AnyOptimizer::AdamW(c) = AnyOptimizer::default() else { unreachable!("the default") };
    let (mut stepper, mut params) = (problem.stepper(&AnyOptimizer::default()), problem.start());
    let spec = problem.layout.specs.iter().find(|s| s.name == "wide").unwrap();
    let mut p: Vec<f32> = params.data[spec.range.clone()].to_vec();
    let (mut m, mut v) = (vec![0.0_f32; p.len()], vec![0.0_f32; p.len()]);
    let (beta1, beta2, eps) = (c.beta1 as f32, c.beta2 as f32, c.eps as f32);
    for t in 0..problem.steps() {
        let (count, lr) = ((t + 1) as f64, problem.rates[t]);
        let correct1 = (1.0 / (1.0 - c.beta1.powf(count))) as f32;
        let correct2 = (1.0 / (1.0 - c.beta2.powf(count))) as f32;
        let (keep, lr32) = ((1.0 - lr * c.weight_decay) as f32, lr as f32);
        let g = problem.gradient(t, "wide");
        for i in 0..p.len() {
            m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
            v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
            p[i] = keep * p[i] - lr32 * (m[i] * correct1) / ((v[i] * correct2).sqrt() + eps);
        }
        problem.step(&ops, &mut stepper, &mut params, t);
        assert_eq!(params.data[spec.range.clone()], p, "step {t}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    // Wide enough for products and steps that are cut into parts.
    let mut layout = ParamLayout::default();
    for (name, kind, shape) in [
        ("large", Kind::Matrix, &[150, 190][..]),
        ("tall", Kind::Matrix, &[200, 130]),
        ("table", Kind::Embedding, &[300, 90]),
        ("scale", Kind::Norm, &[40_000]),
    ] {
        layout.add(name.into(), shape, kind, Init::Normal(0.1));
    }
    let places = hecate_model::optim::InputLayout::new(&layout);
    let wave =
        |n: usize, by: usize| (0..n).map(|i| ((i * by % 1009) as f32 + 0.5) / 1009.0 - 0.5).collect::<Vec<f32>>();
    let values = wave(layout.len, 7919);
    let mut inputs = wave(places.len, 7907);
    for spec in &layout.specs {
        if let Some(at) = places.find(&spec.range) {
            let x = wave(20 * spec.shape[0], 7901);
            inputs[at.clone()].fill(0.0);
            hecate_core::ops::Ops::add_gram(&Reference::<f32>::new(), spec.shape[0], &x, &mut inputs[at]);
        }
    }
    for optimizer in AnyOptimizer::all().into_iter().chain([outer()]) {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut params: Params<f32> = layout.init(1);
                let mut stepper = Stepper::new(optimizer.clone(), &layout, 0, |_| true);
                let inputs = optimizer.needs_inputs().then_some((&inputs[..], 20));
                let gradient = hecate_model::optim::Gradient { values: &values, inputs };
                for _ in 0..2 {
                    stepper.step(&Cpu::training(), &mut params, gradient, 1e-2, |_| true);
                }
                bits(&params)
            })
        };
        let one = run(1);
        assert!([2, 3].into_iter().all(|threads| run(threads) == one), "{}", optimizer.name());
    }
}

fn outer() -> AnyOptimizer {
    serde_json::from_value(json!({"name": "momentum", "precondition": {"name": "outer"}})).unwrap()
}

/// Other values of a setting: what its type allows next to `value`, and, for words, all that the error message lists.
fn others(table: &Value, path: &[String]) -> Vec<Value> {
    let at = |root: &Value| path.iter().fold(root.clone(), |v, key| v[key].clone());
    match at(table) {
        Value::Bool(b) => vec![json!(!b)],
        Value::Number(n) if n.is_u64() => vec![json!(n.as_u64().unwrap() + 1)],
        Value::Number(n) => vec![json!(0.5 * n.as_f64().unwrap() + 0.01)],
        Value::String(word) => {
            let error = serde_json::from_value::<AnyOptimizer>(with(table, path, json!("?"))).unwrap_err().to_string();
            let known = error.split('`').skip(3).step_by(2);
            known.filter(|w| *w != word).map(|w| json!(w)).collect()
        }
        other => panic!("{other} is no setting"),
    }
}

/// `table` with another value at `path`. Another preconditioner has other settings: only its name stays.
fn with(table: &Value, path: &[String], value: Value) -> Value {
    let mut table = table.clone();
    let (last, parents) = path.split_last().unwrap();
    let place = parents.iter().fold(&mut table, |v, key| &mut v[key.as_str()]);
    if last == "name" {
        *place = json!({});
    }
    place[last.as_str()] = value;
    table
}

/// Paths of all settings.
fn settings(value: &Value, prefix: &[String], out: &mut Vec<Vec<String>>) {
    for (key, value) in value.as_object().unwrap() {
        let path: Vec<String> = prefix.iter().cloned().chain([key.clone()]).collect();
        if value.is_object() {
            settings(value, &path, out);
        } else if path != ["name"] {
            out.push(path);
        }
    }
}

#[test]
fn every_setting_changes_the_trajectory_of_some_case() {
    let (problem, ops) = (Problem::load(), Reference::<f64>::new());
    for optimizer in AnyOptimizer::all() {
        let mut alive = std::collections::BTreeMap::new();
        for (.., case) in cases(optimizer.name()) {
            let (_, end) = problem.walk(&ops, &case);
            let table = serde_json::to_value(&case).unwrap();
            let mut paths = Vec::new();
            settings(&table, &[], &mut paths);
            for path in paths {
                for value in others(&table, &path) {
                    let changed: AnyOptimizer = serde_json::from_value(with(&table, &path, value.clone())).unwrap();
                    // What has no meaning is refused and no dead setting.
                    let moves = changed.check().is_ok() && problem.walk(&ops, &changed).1 != end;
                    let word = if value.is_string() { format!(" = {value}") } else { String::new() };
                    *alive.entry(format!("{}{word}", path.join("."))).or_insert(false) |= moves;
                }
            }
        }
        assert!(!alive.is_empty());
        for (setting, alive) in alive {
            assert!(alive, "{}: `{setting}` changes nothing", optimizer.name());
        }
    }
}

/// A tensor that is due at some steps goes as if there were no others: counts, corrections and periods are its own.
#[test]
fn a_tensor_that_is_seldom_due_counts_its_own_steps() {
    let (problem, ops) = (Problem::load(), Reference::<f64>::new());
    let due = |t: usize| t % 3 == 1;
    for optimizer in all() {
        let (mut both, mut params) = (problem.stepper(&optimizer), problem.start());
        let (mut alone, mut own) = (problem.stepper(&optimizer), problem.start());
        for t in 0..problem.steps() {
            let before = (params.clone(), both.clone());
            problem.step_due(&ops, &mut both, &mut params, t, |spec| spec.name != "wide" || due(t));
            if due(t) {
                problem.step_due(&ops, &mut alone, &mut own, t, |_| true);
            } else {
                let place = problem.layout.specs.iter().find(|s| s.name == "wide").unwrap().range.clone();
                assert_eq!(params.data[place.clone()], before.0.data[place]);
            }
        }
        for (spec, (both, alone)) in problem.layout.specs.iter().zip(both.steps().into_iter().zip(alone.steps())) {
            let steps = problem.steps() as u64;
            assert_eq!(
                (both, alone),
                (if spec.name == "wide" { alone } else { steps }, (0..steps).filter(|t| t % 3 == 1).count() as u64)
            );
            if spec.name == "wide" {
                assert_eq!(params.data[spec.range.clone()], own.data[spec.range.clone()], "{}", optimizer.name());
            }
        }
    }
}
