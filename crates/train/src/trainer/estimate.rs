//! How much memory a run will take, said before its first step.
//!
//! What a training pass keeps is not computed but looked at: one pass over one lane is made, a small part of a step.
//! Checkpoints are written from where the numbers are and take nothing.

use super::{MAX_BUFFERS, Trainer};
use crate::error::{Error, Result};
use crate::machine::{Machine, ProcessMemory};
use crate::run_config::RunConfig;
use crate::{eval, human};
use hecate_model::{Access, Logits, Model, Tape, Workspace};
use serde::Serialize;

/// Tokens of the call that shows what measuring takes: more make a call of several pieces.
const PIECE_TOKENS: usize = 128;
/// What the program itself holds where the system does not tell: code, stacks and threads, as seen on Linux.
const PROGRAM_BYTES: u64 = 6 << 20;
/// Code that is loaded when it first runs, as seen on Linux.
const CODE_BYTES: u64 = 2 << 20;
/// Bytes of a number.
const F32: u64 = 4;
/// Stack and scratch of kernels on one thread, as seen at widths of 16 to 512.
const THREAD_BYTES: u64 = 1 << 19;

/// What the process held before it made a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Bytes then.
    pub now: u64,
    /// The most until then.
    pub peak: u64,
}

impl Held {
    /// Looks it up. Where the system does not tell, it is a fixed size of the program and a text of so many bytes.
    pub fn look_up(text_bytes: usize) -> Self {
        let guess = PROGRAM_BYTES + text_bytes as u64;
        let known = ProcessMemory::look_up().map(|m| Self { now: m.resident_bytes, peak: m.peak_bytes });
        known.unwrap_or(Self { now: guess, peak: guess })
    }
}

/// Bytes by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// The program, its threads with the scratch of their kernels, and the text.
    pub program: u64,
    /// Weights, the optimizer's state and what it holds in a step, and the gradient buffers.
    pub parameters: u64,
    /// The state of every lane.
    pub states: u64,
    /// What forward passes keep for backward passes, over all threads.
    pub activations: u64,
    /// Measuring the held-out text at the end, and the weights as the report reads them back.
    pub evaluation: u64,
    /// The most that the process held before the run: to read a long text, say.
    pub before: u64,
}

impl Estimate {
    /// The most that the process will hold at once.
    pub fn total(&self) -> u64 {
        let run = self.program + self.parameters + self.states + self.activations + self.evaluation;
        run.max(self.before)
    }
}

/// Refuses a run whose parameters and states alone are more than the machine has, where the system tells: asking for
/// them would end the process.
pub(super) fn check_memory(config: &RunConfig, model: &Model) -> Result<()> {
    let (lanes, parameters) = (config.train.lanes as u128, model.params().len as u128);
    let state = config.optimizer.state_len(model.params(), |_| true) as u128;
    let gradient = if config.optimizer.needs_inputs() { model.inputs().len as u128 } else { parameters };
    let buffers = gradient * lanes.min(MAX_BUFFERS as u128);
    let needed = F32 as u128 * (parameters + state + buffers + lanes * model.state_layout().values() as u128);
    match Machine::look_up().memory_bytes {
        Some(memory) if needed > memory as u128 => {
            let needed = human::bytes(u64::try_from(needed).unwrap_or(u64::MAX));
            let reason = format!(
                "parameters, optimizer and states take {needed}, this machine has {}; choose a smaller model or fewer lanes",
                human::bytes(memory)
            );
            Err(Error::Config { origin: "the run's config".into(), reason })
        }
        _ => Ok(()),
    }
}

impl Trainer {
    /// The memory of a process that held so much before it made this run.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn estimate(&mut self, held: Held) -> Result<Estimate> {
        let len = self.model.params().len as u64;
        let gradients = self.buffers.iter().map(Vec::len).sum::<usize>() as u64;
        let threads = rayon::current_num_threads() as u64;
        let tasks = threads.min(self.buffers.len() as u64);
        // With a memory, the pass that learns and the one that does not run side by side.
        let passes = threads.min(1 + u64::from(self.model.remembers()));
        Ok(Estimate {
            program: held.now + CODE_BYTES + threads * THREAD_BYTES,
            parameters: F32 * (len + gradients + (self.optimizer.state_len() + self.optimizer.scratch_len()) as u64),
            states: F32 * (self.states.len() * self.model.state_layout().values()) as u64,
            activations: F32 * self.pass_len(self.config.model.context)? as u64 * tasks,
            evaluation: F32 * (passes * self.evaluation_len()? as u64 + len),
            before: held.peak,
        })
    }

    /// Values that a pass over `tokens` tokens keeps.
    fn pass_len(&mut self, tokens: usize) -> Result<usize> {
        let (mut state, mut tape) = (self.model.new_state(), Tape::default());
        let (ids, mut losses) = (vec![0; tokens], vec![0.0; tokens]);
        // The gradient goes into a buffer that the next step clears.
        let grads = &mut self.buffers[0];
        let pass =
            self.model.train(&self.ops, &self.params, &mut state, &ids, &ids, 0.0, &mut losses, grads, &mut tape);
        pass.map_err(|source| Error::Step { step: self.step + 1, source })?;
        Ok(tape.len())
    }

    /// Values that a pass over held-out text holds: a state that is carried, one that starts anew with every piece, and
    /// the buffers of a call, of which only the logits grow with its length.
    fn evaluation_len(&self) -> Result<usize> {
        let (mut state, mut ws) = (self.model.new_state(), Workspace::default());
        let ids = [0; PIECE_TOKENS];
        self.model.forward(&self.ops, &self.params, &mut state, &ids, &Access::Learn, Logits::All, &mut ws)?;
        let longest = eval::CALL_TOKENS.max(2 * self.config.model.context);
        let more = longest.saturating_sub(ids.len()) * self.model.config().vocab;
        Ok(2 * self.model.state_layout().values() + ws.len() + more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_config::RunConfig;
    use crate::stream::{Boundary, Stream};
    use hecate_model::ModelConfig;
    use hecate_model::config::{BlockConfig, ChannelConfig, MemoryConfig, MixerConfig};

    fn trainer() -> Trainer {
        let memory = MemoryConfig { heads: 1, ..MemoryConfig::default() };
        let blocks = vec![BlockConfig {
            repeat: 1,
            mixer: MixerConfig::Memory(memory),
            channel: ChannelConfig::None,
            ..BlockConfig::default()
        }];
        let config =
            RunConfig { model: ModelConfig { width: 64, blocks, ..ModelConfig::default() }, ..RunConfig::default() };
        let stream = Stream::from_tokens("text", vec![1; 5000], vec![0], Boundary::Carry);
        Trainer::new(&config, stream).unwrap()
    }

    #[test]
    fn a_pass_keeps_a_state_per_chunk_and_not_per_token() {
        let mut trainer = trainer();
        let state = trainer.model().memories().map(|(_, m)| m.state.len()).sum::<usize>();
        let (one, two) = (trainer.pass_len(1024).unwrap(), trainer.pass_len(2048).unwrap());
        let per_token = (two - one) / 1024;
        assert!(per_token < state / 2, "a token keeps {per_token} values, a state has {state}");
    }

    #[test]
    fn a_model_that_no_machine_holds_is_refused_before_it_is_asked_for() {
        let config = ModelConfig { vocab: 1 << 24, width: 1 << 16, ..ModelConfig::default() };
        let model = Model::new(&config).unwrap();
        if Machine::look_up().memory_bytes.is_some() {
            let line = check_memory(&RunConfig::default(), &model).unwrap_err().to_string();
            assert!(line.contains("this machine has"), "{line}");
        }
        assert!(check_memory(&RunConfig::default(), &Model::new(&ModelConfig::default()).unwrap()).is_ok());
    }

    #[test]
    fn the_total_is_never_less_than_what_was_held_before() {
        let mut trainer = trainer();
        let small = trainer.estimate(Held { now: 0, peak: 0 }).unwrap();
        assert!(small.total() > small.parameters + small.activations);
        assert_eq!(trainer.estimate(Held { now: 5, peak: 5 }).unwrap().total(), small.total() + 5);
        assert_eq!(trainer.estimate(Held { now: 0, peak: 1 << 40 }).unwrap().total(), 1 << 40);
    }
}
