//! What was written can be read, and fades as `retain` says: one association is written into an empty memory, then
//! neutral tokens follow that write nothing, and the association is read at each of them.

use super::random::Random;
use super::stream;
use super::{Check, Report, sizes};
use crate::erased::ErasedRule;
use crate::rule::About;

const TOKENS: usize = 40;
/// Of the largest value; both sides are products of the same few numbers in f64.
const TOLERANCE: f64 = 1e-12;

pub(super) fn check(rule: &dyn ErasedRule, report: &mut Report) {
    let about = rule.about();
    let closed = about.structure == "matrix"
        && about.features == "none"
        && ["l2", "dot"].contains(&about.bias)
        && ["none", "l2"].contains(&about.retention)
        && ["gd", "momentum"].contains(&about.algorithm);
    if !closed || !rule.inputs().iter().any(|i| i.name == "rate") || rule.reads_first() {
        let About { structure, bias, retention, algorithm, .. } = about;
        let what = format!("recall: no closed form for {structure}, {bias}, {retention}, {algorithm}");
        report.skipped.push(what);
        return;
    }
    let mut draw = Random::new(8);
    for d in sizes(rule, &[(1, 1), (6, 6), (6, 4), (3, 8)]) {
        let mut key = draw.normals(d.dk);
        let length = key.iter().map(|x| x * x).sum::<f64>().sqrt();
        key.iter_mut().for_each(|x| *x /= length);
        let value = draw.normals(d.dv);
        let retain: Vec<f64> = (0..TOKENS).map(|_| draw.uniform(0.7, 1.0)).collect();

        let mut inputs = Vec::new();
        for input in rule.inputs() {
            let row = |t: usize| -> Vec<f64> {
                let width = input.width.of(d);
                match (input.name, t) {
                    ("q", _) | ("k" | "replacement", 0) => key.clone(),
                    ("v", 0) => value.clone(),
                    ("rate", 0) => vec![1.0; width],
                    ("retain", _) => vec![retain[t]; width],
                    _ => vec![0.0; width],
                }
            };
            inputs.push((0..TOKENS).flat_map(row).collect());
        }
        let run = stream::forward(rule, &stream::cold(rule, d, TOKENS, inputs));

        let fades = rule.inputs().iter().any(|i| i.name == "retain");
        let mut kept = 1.0;
        for (t, retain) in retain.iter().enumerate() {
            kept *= if fades && t > 0 { *retain } else { 1.0 };
            let want: Vec<f64> = value.iter().map(|v| kept * v).collect();
            let got = &run.y[t * d.dv..(t + 1) * d.dv];
            let off = stream::distance(got, &want);
            report.expect(Check::Recall, off <= TOLERANCE * stream::scale(&value), || {
                format!("{t} tokens after {value:?} was written, {kept:.4} of it must be left, but it reads {got:?}")
            });
        }
    }
}
