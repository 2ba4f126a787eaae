//! Every optimizer of the list in a run: it learns, resumes bit for bit, and does not see the number of threads.

use hecate_model::ModelConfig;
use hecate_model::config::BlockConfig;
use hecate_model::optim::{AnyOptimizer, Schedule};
use hecate_train::checkpoint::Checkpoints;
use hecate_train::run_config::{RunConfig, TrainConfig};
use hecate_train::stream::{Boundary, Stream};
use hecate_train::trainer::Trainer;

fn config(optimizer: AnyOptimizer, peak: f64) -> RunConfig {
    RunConfig {
        train: TrainConfig { steps: 30, lanes: 3, accumulate: 2, ..TrainConfig::default() },
        schedule: Schedule { peak, warmup_steps: 0, floor: 1.0 },
        model: ModelConfig {
            width: 16,
            context: 24,
            blocks: vec![BlockConfig { repeat: 1, ..BlockConfig::default() }],
            ..ModelConfig::default()
        },
        optimizer,
        ..RunConfig::default()
    }
}

fn stream() -> Stream {
    let text: Vec<u32> = (0..3000_u32).map(|i| [97, 98, 99, 100, 32][(i % 5) as usize]).collect();
    Stream::from_tokens("text", text, vec![0], Boundary::Carry)
}

/// Losses of so many steps.
fn losses(trainer: &mut Trainer, steps: usize) -> Vec<f64> {
    (0..steps).map(|_| trainer.step().unwrap().loss).collect()
}

#[test]
fn every_optimizer_learns_at_some_rate_and_resumes_bit_for_bit() {
    for optimizer in AnyOptimizer::all() {
        let name = optimizer.name();
        // A rate that is too large may end in the error for what is not finite.
        let best = [3e-3, 3e-2, 0.3].map(|peak| {
            let mut trainer = Trainer::new(&config(optimizer.clone(), peak), stream()).unwrap();
            let all = (0..30).map(|_| trainer.step().map_or(f64::INFINITY, |r| r.loss)).collect::<Vec<f64>>();
            all[29] / all[0]
        });
        assert!(best.iter().any(|&share| share < 0.6), "{name}: {best:?}");
        let config = config(optimizer, 3e-3);
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(folder.path()).unwrap();
        let mut trainer = Trainer::new(&config, stream()).unwrap();
        losses(&mut trainer, 3);
        trainer.save(&checkpoints).unwrap();
        let checkpoint = checkpoints.latest_complete().unwrap();
        let mut resumed = Trainer::resume(&config, stream(), &checkpoint).unwrap();
        assert_eq!(losses(&mut trainer, 3), losses(&mut resumed, 3), "{name}");
        assert_eq!((trainer.params(), trainer.optimizer()), (resumed.params(), resumed.optimizer()), "{name}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let alone = pool.install(|| {
            let mut trainer = Trainer::new(&config, stream()).unwrap();
            losses(&mut trainer, 6);
            trainer.params().clone()
        });
        assert_eq!(trainer.params(), &alone, "{name}");
    }
}

#[test]
fn a_checkpoint_of_another_optimizer_is_refused() {
    let [adamw, muon] = ["adamw", "muon"].map(|name| {
        let optimizer = AnyOptimizer::all().into_iter().find(|o| o.name() == name).unwrap();
        config(optimizer, 3e-3)
    });
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(folder.path()).unwrap();
    Trainer::new(&adamw, stream()).unwrap().save(&checkpoints).unwrap();
    let checkpoint = checkpoints.latest_complete().unwrap();
    let error = Trainer::resume(&muon, stream(), &checkpoint).err().unwrap().to_string();
    assert!(error.contains("hecate-adamw 1") && error.contains("hecate-muon 1"), "{error}");
}
