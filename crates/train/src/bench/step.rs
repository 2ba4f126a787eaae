//! Rows about training steps: everything that a run does from one step to the next, the optimizer included.

use super::harness::{Case, Fault, Work};
use super::inputs::{GRADIENT_TOLERANCE, fault, fault_within};
use super::models::{VERIFIED_TOKENS, bytes, double, formula, laid_out, tokens};
use crate::run_config::{RunConfig, TrainConfig};
use crate::stream::{Boundary, Lanes, Stream};
use crate::trainer::{StepReport, Trainer};
use hecate_core::ops::Reference;
use hecate_model::optim::{AdamW, AnyOptimizer, Schedule};
use hecate_model::{ModelConfig, ParamSpec, Params, Tape};

/// Most lanes of the steps that are compared with the reference, which is slow.
const VERIFIED_LANES: usize = 2;
/// Rate of the timed steps: so small that the last one still works on a model like the first one's.
const RATE: f64 = 1e-5;
/// Rate of the compared step: so large that a wrong or missing update lies far outside of the tolerance.
const VERIFIED_RATE: f64 = 0.1;

/// One step of `lanes` sequences as long as the model's context, each from an empty state.
pub(super) fn step(name: &str, model: &ModelConfig, lanes: usize) -> Case {
    let (n, model) = (lanes * model.context, model.clone());
    Case {
        name: format!("{name} B={lanes} training step"),
        formula: format!("3 B T {}", formula(&model)),
        flops: n as f64 * (3.0 * laid_out(&model).flops(model.context, 0) + laid_out(&model).learning(true).flops),
        bytes: bytes(&model, n, true),
        tokens: Some(n),
        build: Box::new(move || {
            let mut trainer = trainer(&run(&model, lanes, RATE));
            let short = ModelConfig { context: VERIFIED_TOKENS.min(model.context), ..model };
            Work {
                fault: against_reference(run(&short, lanes.min(VERIFIED_LANES), VERIFIED_RATE)),
                call: Box::new(move |cpu| {
                    trainer.set_ops(cpu.clone());
                    trainer.step().expect("small steps stay finite");
                }),
            }
        }),
    }
}

fn run(model: &ModelConfig, lanes: usize, rate: f64) -> RunConfig {
    RunConfig {
        train: TrainConfig { lanes, reset_each_step: true, ..TrainConfig::default() },
        schedule: Schedule { peak: rate, warmup_steps: 0, floor: 1.0 },
        optimizer: AnyOptimizer::AdamW(AdamW::default()),
        model: model.clone(),
        ..RunConfig::default()
    }
}

fn stream(config: &RunConfig) -> Stream {
    let ids = tokens(&config.model, 4 * config.train.lanes * config.model.context + 1);
    Stream::from_tokens("the bench", ids, vec![0], Boundary::Carry)
}

fn trainer(config: &RunConfig) -> Trainer {
    Trainer::new(config, stream(config)).expect("the bench's configs can be trained")
}

/// Compares the first step of a run with the reference in double precision: loss, gradient, new parameters.
fn against_reference(config: RunConfig) -> Fault {
    let mut want: Option<(f64, Vec<f64>)> = None;
    Box::new(move |cpu| {
        let mut trainer = trainer(&config);
        trainer.set_ops(cpu.clone());
        let before = trainer.params().clone();
        let report = match trainer.step() {
            Ok(report) => report,
            Err(error) => return Some(error.to_string()),
        };
        let (loss, gradient) = want.get_or_insert_with(|| reference_step(&config, &trainer, &before));
        let wrong_loss = fault([(report.loss as f32, *loss)].into_iter()).map(|reason| format!("loss: {reason}"));
        wrong_loss
            .or_else(|| wrong_gradient(&trainer, &report, gradient))
            .or_else(|| wrong_update(&trainer, &report, &before).map(|reason| format!("update: {reason}")))
    })
}

/// Mean loss of a run's first step and its gradient before clipping.
fn reference_step(config: &RunConfig, trainer: &Trainer, params: &Params<f32>) -> (f64, Vec<f64>) {
    let (model, params) = (trainer.model(), double(params));
    let (lanes, context) = (config.train.lanes, config.model.context);
    let weight = 1.0 / (lanes * context) as f64;
    let (mut loss, mut gradient) = (0.0, vec![0.0; model.params().len]);
    let mut read = Lanes::new(stream(config), lanes, context).expect("the trainer has the same lanes");
    for segment in read.next_step().into_iter().flatten() {
        let (mut state, mut losses) = (model.new_state(), vec![0.0; segment.predictions()]);
        let (ops, x, y) = (Reference::<f64>::new(), segment.inputs(), segment.targets());
        let tape = &mut Tape::default();
        model
            .train(&ops, &params, &mut state, x, y, weight, &mut losses, &mut gradient, tape)
            .expect("fresh models are finite");
        loss += weight * losses.iter().sum::<f64>();
    }
    (loss, gradient)
}

/// The first tensor whose gradient, clipped as the run clips it, is not the reference's.
fn wrong_gradient(trainer: &Trainer, report: &StepReport, want: &[f64]) -> Option<String> {
    let norm = want.iter().map(|g| g * g).sum::<f64>().sqrt();
    if let Some(reason) = fault([(report.grad_norm as f32, norm)].into_iter()) {
        return Some(format!("norm of the gradient: {reason}"));
    }
    let clip = trainer.config().train.clip;
    let scale = if clip > 0.0 { (clip / norm).min(1.0) } else { 1.0 };
    trainer.model().params().specs.iter().find_map(|spec| {
        let pairs = trainer.gradient()[spec.range.clone()].iter().zip(&want[spec.range.clone()]);
        fault_within(GRADIENT_TOLERANCE, pairs.map(|(&got, want)| (got, scale * want)))
            .map(|reason| format!("gradient of {}: {reason}", spec.name))
    })
}

/// Compares the new parameters with what AdamW's first step makes of the old ones and the gradient: both means are
/// then corrected to the gradient itself and its square. Levels that are slower than a step stay as they are.
fn wrong_update(trainer: &Trainer, report: &StepReport, before: &Params<f32>) -> Option<String> {
    let AnyOptimizer::AdamW(c) = &trainer.config().optimizer else { unreachable!("`run` says AdamW") };
    let (model, context) = (trainer.model(), trainer.config().model.context as u64);
    let waits =
        |spec: &ParamSpec| model.slow_parameters().any(|(first, period)| first == spec.range.start && period > context);
    model.params().specs.iter().find_map(|spec| {
        if waits(spec) {
            let same = trainer.params().data[spec.range.clone()] == before.data[spec.range.clone()];
            return (!same).then(|| format!("{} changed before it was due", spec.name));
        }
        let decay = if spec.kind.decays() { c.weight_decay } else { 0.0 };
        let want = spec.range.clone().map(|i| {
            let (p, g) = (f64::from(before.data[i]), f64::from(trainer.gradient()[i]));
            p - report.rate * (g / (g.abs() + c.eps) + decay * p)
        });
        fault(trainer.params().data[spec.range.clone()].iter().copied().zip(want))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_gradient_and_a_missing_update_are_faults() {
        let config = run(&ModelConfig { context: VERIFIED_TOKENS, ..ModelConfig::default() }, 2, VERIFIED_RATE);
        let mut trainer = trainer(&config);
        let before = trainer.params().clone();
        let report = trainer.step().unwrap();
        let (_, mut gradient) = reference_step(&config, &trainer, &before);
        assert_eq!(wrong_gradient(&trainer, &report, &gradient), None);
        assert_eq!(wrong_update(&trainer, &report, &before), None);
        let spec = trainer.model().params().specs.iter().find(|s| s.name.ends_with("gates.bias")).unwrap();
        gradient[spec.range.clone()].iter_mut().for_each(|g| *g *= 1.001);
        let reason = wrong_gradient(&trainer, &report, &gradient).unwrap();
        assert!(reason.contains(&spec.name), "{reason}");
        assert!(wrong_update(&trainer, &report, trainer.params()).is_some());
    }
}
