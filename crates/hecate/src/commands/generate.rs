//! `hecate generate`: continue a text, streaming as it goes.

use super::{newest_run, print_json};
use crate::cli::{AccessArg, Generate};
use crate::{Failure, Stopped};
use hecate_core::ops::Cpu;
use hecate_model::{Access, GenerationConfig, Sampler, Workspace, generate};
use hecate_train::atomic;
use hecate_train::interrupt::Interrupt;
use hecate_train::loaded::Loaded;
use hecate_train::tokenizer::{TextStream, printable};
use serde::Serialize;
use std::io::Write;
use std::ops::ControlFlow;

/// What `--json` prints.
#[derive(Serialize)]
struct Output {
    text: String,
    tokens: Vec<u32>,
    tokens_seen: u64,
    state_sha256: String,
}

pub fn run(args: &Generate) -> Result<(), Failure> {
    let folder = match &args.model {
        Some(path) => path.clone(),
        None => newest_run()?,
    };
    let loaded = Loaded::open(&folder)?;
    let config = settings(args, &loaded.generation);
    let kept = args.state.as_ref().filter(|_| args.access == AccessArg::Learn);
    kept.map_or(Ok(()), |file| atomic::check_replaceable(file))?;
    let mut sampler = Sampler::new(&config)?;
    let mut state = match &args.state {
        Some(file) => loaded.state(file, args.access == AccessArg::Learn)?,
        None => loaded.model.new_state(),
    };
    let prompt = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(file)) => std::fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?,
        (None, None) => Vec::new(),
    };
    let ids = loaded.tokenizer.encode(&prompt);
    let mut out = Sink { args, loaded: &loaded, tokens: Vec::new(), text: Vec::new(), stream: TextStream::default() };
    let mut broken = if args.json { None } else { out.show(&prompt).err() };
    let (mut ws, access) = (Workspace::default(), Access::from(args.access));
    let unheard = broken.is_some();
    // Where nothing is kept, there is nothing to stop for in order.
    let interrupt = if kept.is_some() { Interrupt::install()? } else { Interrupt::default() };
    let mut each = |token| match out.push(token) {
        Ok(ControlFlow::Continue(())) => interrupt.flow(),
        Ok(done) => done,
        Err(error) => {
            broken = Some(error);
            ControlFlow::Break(())
        }
    };
    let nobody_reads = |error: &Failure| {
        error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    let ops = Cpu::inference();
    let (model, params) = (&loaded.model, &loaded.params);
    // Where the prompt could not even be shown, it is read alone.
    let most = if unheard { 0 } else { config.max_tokens };
    generate(&ops, model, params, &mut state, &ids, &mut sampler, most, &access, &mut ws, &mut each)?;
    // What was read and said is learned, whether anybody listens to the end.
    let closed = broken.as_ref().is_some_and(nobody_reads);
    if let Some(error) = broken.filter(|_| !closed) {
        return Err(error);
    }
    if let Some(file) = kept {
        loaded.save_state(&state, file)?;
    }
    if closed {
        return Ok(());
    }
    if interrupt.requested() {
        let (tokens, file) = (out.tokens.len(), kept.map(|file| file.display().to_string()).unwrap_or_default());
        errln!("stopped after {tokens} tokens; {file} holds what was learned from them");
        return Err(Stopped.into());
    }
    if args.json {
        let text = String::from_utf8_lossy(&out.text).into_owned();
        let (tokens_seen, state_sha256) = (state.position, state.hash());
        return print_json(&Output { text, tokens: out.tokens, tokens_seen, state_sha256 });
    }
    outln!("{}", printable(&out.stream.finish()));
    Ok(())
}

fn settings(args: &Generate, defaults: &GenerationConfig) -> GenerationConfig {
    GenerationConfig {
        temperature: args.temperature.unwrap_or(defaults.temperature),
        top_k: args.top_k.unwrap_or(defaults.top_k),
        top_p: args.top_p.unwrap_or(defaults.top_p),
        max_tokens: args.max_tokens.unwrap_or(defaults.max_tokens),
        seed: args.seed.unwrap_or(defaults.seed),
    }
}

/// Takes tokens as they come.
struct Sink<'a> {
    args: &'a Generate,
    loaded: &'a Loaded,
    tokens: Vec<u32>,
    text: Vec<u8>,
    stream: TextStream,
}

impl Sink<'_> {
    fn push(&mut self, token: u32) -> Result<ControlFlow<()>, Failure> {
        let start = self.text.len();
        self.tokens.push(token);
        self.loaded.tokenizer.decode_into(token, &mut self.text)?;
        if !self.args.json {
            let new = self.text[start..].to_vec();
            self.show(&new)?;
        }
        let done = |stop: &String| self.text.ends_with(stop.as_bytes());
        Ok(if self.args.stop.iter().any(done) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Prints what is complete: a character is never split.
    fn show(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let text = self.stream.push(bytes);
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(printable(&text).as_bytes())?;
        stdout.flush()?;
        Ok(())
    }
}
