//! The associative memory as a plain object: every rule, without a model around it.

use hecate_core::conformance::random::Random;
use hecate_core::scan::{ScanShape, Write, reference_forward};
use hecate_core::{AnyRule, AssociativeMemory, Dims, PairMemory, learned_starts, seeded_start};

const D: Dims = Dims { dk: 8, dv: 8 };

fn units(random: &mut Random, n: usize) -> Vec<f64> {
    let mut x = random.normals(n * D.dk);
    for row in x.chunks_exact_mut(D.dk) {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter_mut().for_each(|x| *x /= length);
    }
    x
}

#[test]
fn every_rule_is_an_associative_memory_and_answers_differently_after_a_write() {
    // Brief, so that what is written is read where reads wait for the end of a chunk.
    for rule in AnyRule::all().iter().map(AnyRule::brief) {
        let name = rule.name();
        let mut memory = AssociativeMemory::<f64>::new(rule, D, 3).unwrap();
        let mut random = Random::new(1);
        let (keys, values) = (units(&mut random, 20), random.normals(20 * D.dv));
        let empty = memory.clone();
        memory.write(&keys, &values, &[]).unwrap();
        assert_eq!(memory.position(), 20);
        let answers = memory.read(&keys).unwrap();
        assert!(answers.iter().all(|x| x.is_finite()), "{name}");
        assert_ne!(answers, empty.read(&keys).unwrap(), "{name}");

        // In any cuts, and after a reset, it is the same memory.
        let mut again = memory.clone();
        again.reset();
        assert_eq!(again, empty);
        again.write(&keys[..7 * D.dk], &values[..7 * D.dv], &[]).unwrap();
        again.read(&keys).unwrap();
        again.write(&keys[7 * D.dk..], &values[7 * D.dv..], &[]).unwrap();
        assert_eq!(again, memory, "{name}");
        let lengths = memory.state().iter().map(|(t, x)| (t.len() == x.len()) as usize).sum::<usize>();
        assert_eq!(lengths, memory.state().len());
    }
}

#[test]
fn it_holds_what_a_scan_holds() {
    let rule = AnyRule::named("titans_mlp").unwrap();
    let mut random = Random::new(2);
    let (n, keys) = (9, units(&mut random, 9));
    let values = random.normals(n * D.dv);
    let gates: Vec<Vec<f64>> = [0.99, 0.02, 0.7].iter().map(|&x| vec![x; n]).collect();
    let mut state = seeded_start(&rule, D, 1, 5);
    let shape = ScanShape { heads: 1, tokens: n, dims: D, pos: 0 };
    let inputs: Vec<&[f64]> = vec![&keys, &values, &keys, &gates[0], &gates[1], &gates[2]];
    let mut y = vec![0.0; n * D.dv];
    reference_forward(&rule, shape, &inputs, &mut state, &mut y, None, Write::Yes);

    let mut memory = AssociativeMemory::<f64>::new(rule.clone(), D, 5).unwrap();
    let given: [(&str, &[f64]); 3] = [("retain", &[0.99]), ("rate", &gates[1]), ("momentum", &[0.7])];
    memory.write(&keys, &values, &given).unwrap();
    let held: Vec<f64> = memory.state().iter().flat_map(|(_, x)| x.to_vec()).collect();
    assert_eq!(held, state);
    assert_eq!(memory.read(&keys[8 * D.dk..]).unwrap(), y[8 * D.dv..]);
    assert_eq!(learned_starts(&rule, D), ["W1", "W2"]);
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_written() {
    let mut memory = AssociativeMemory::<f64>::new(AnyRule::named("delta").unwrap(), D, 0).unwrap();
    let (key, value) = (vec![1.0; D.dk], vec![1.0; D.dv]);
    for (error, part) in [
        (memory.write(&key[1..], &value, &[]), "keys"),
        (memory.write(&key, &value[1..], &[]), "values"),
        (memory.write(&key, &value, &[("rte", &[1.0])]), "rate"),
        (memory.write(&key, &value, &[("rate", &[1.0, 1.0, 1.0])]), "rate"),
        (memory.read(&key[1..]).map(|_| ()), "queries"),
    ] {
        let text = error.unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(memory.position(), 0);
    assert!(AssociativeMemory::<f32>::new(AnyRule::named("titans_mlp").unwrap(), Dims::new(3, 4), 0).is_err());
}

#[test]
fn a_sharp_pair_memory_recalls_and_a_window_forgets() {
    let mut memory = PairMemory::<f64>::new(Dims::new(2, 1), 1e3, Some(2)).unwrap();
    assert_eq!(memory.read(&[1.0, 0.0]).unwrap(), [0.0]);
    memory.write(&[1.0, 0.0, 0.0, 1.0, -1.0, 0.0], &[3.0, 4.0, 5.0]).unwrap();
    assert_eq!((memory.len(), memory.position()), (2, 3));
    assert_eq!(memory.read(&[0.0, 1.0, -1.0, 0.0]).unwrap(), [4.0, 5.0]);
    assert_eq!(memory.pairs().1, [4.0, 5.0]);
    memory.reset();
    assert!(memory.is_empty() && memory.position() == 0);
    for (sharpness, window) in [(f64::NAN, None), (-1.0, None), (1.0, Some(0))] {
        assert!(PairMemory::<f64>::new(Dims::new(2, 1), sharpness, window).is_err());
    }
}
