//! Every command as a user runs it, and every mistake that a user makes.

mod common;
use common::*;

#[test]
fn a_trained_model_generates_evaluates_and_is_inspected() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let shown = train(dir.path(), "run", 6, &["--tensorboard"]);
    assert!(shown.contains("held-out bits per byte") && shown.contains("report.html"), "{shown}");
    for file in
        ["config.json", "generation_config.json", "tokenizer_config.json", "log.jsonl", "report.html", "run.toml"]
    {
        assert!(dir.path().join("run").join(file).exists(), "{file}");
    }
    assert!(dir.path().join("run/events").read_dir().unwrap().count() > 0);

    let json = |args: &[&str]| serde_json::from_str::<serde_json::Value>(&succeed(dir.path(), args)).unwrap();
    let once = json(&["generate", "run", "--prompt", "line", "-n", "60", "--state", "once", "--json"]);
    json(&["generate", "run", "--prompt", "line", "-n", "30", "--state", "twice", "--json"]);
    let twice = json(&["generate", "run", "-n", "30", "--state", "twice", "--json"]);
    assert_eq!(once["state_sha256"], twice["state_sha256"], "two halves are the whole");
    assert_eq!(once["tokens"].as_array().unwrap()[30..], twice["tokens"].as_array().unwrap()[..]);
    let before = bytes(dir.path(), "once");
    json(&["generate", "run", "-n", "5", "--state", "once", "--access", "read", "--json"]);
    assert_eq!(bytes(dir.path(), "once"), before, "reading leaves the file alone");
    // Where a state cannot be written, nothing is said that would be lost.
    let lost = run(dir.path(), &["generate", "run", "-n", "5", "--state", "nowhere/state"]);
    assert!(!lost.status.success() && lost.stdout.is_empty() && !lost.stderr.is_empty());
    // Whoever reads the text leaves before it ends: what was said until then is kept.
    let mut open = hecate(dir.path());
    let args = ["generate", "run", "--prompt", "line", "-n", "20000", "--state", "left"];
    let mut child = open.args(args).stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(succeed(dir.path(), &["inspect", "left"]).contains("blocks.0.memory.W"));

    let learn = json(&["eval", "run", "text.txt", "--json"]);
    let frozen = json(&["eval", "run", "text.txt", "--access", "frozen", "--json"]);
    assert_ne!(learn["bits_per_byte"], frozen["bits_per_byte"]);
    assert_eq!(learn["bytes"], std::fs::metadata(dir.path().join("text.txt")).unwrap().len());
    assert!(succeed(dir.path(), &["eval", "run/checkpoints/step-6", "text.txt"]).contains("bits per byte"));

    assert!(succeed(dir.path(), &["inspect", "once"]).contains("blocks.0.memory.W"));
    assert!(succeed(dir.path(), &["inspect", "run"]).contains("embedding.weight"));
    let described = json(&["inspect", "--config", "run", "--json"]);
    assert!(described["parameters"].as_u64() > Some(1000));
}

#[test]
fn a_second_stage_goes_on_from_the_first_and_says_what_it_trains() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let stage = |chunk: usize| {
        let rule = format!("{{name=\"titans_mlp\",chunk={chunk}}}");
        format!("model.blocks=[{{mixer={{type=\"memory\",heads=2,rule={rule}}},channel={{type=\"mlp\"}}}}]")
    };
    let (first, second) = (stage(16), stage(4));
    train(dir.path(), "first", 4, &["train.reset_every=2", &first]);
    let args = ["train.from=first", "train.only=[\"*.mixer.*\"]", second.as_str()];
    let line = [&["train", "default"], TINY, &["train.steps=3"], &args, &["--data", "text.txt", "--out", "second"]];
    let out = run(dir.path(), &line.concat());
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("trained, "), "{said}");
    let line = said.lines().find(|l| l.starts_with("trained, ")).unwrap();
    assert!(line.contains("blocks.0.mixer.start.W1") && !line.contains("embedding"), "{line}");
    assert!(succeed(dir.path(), &["inspect", "second"]).contains("blocks.0.mixer.start.W2"));
    // Both halves of a session with a deep memory are the whole, files in between.
    let json = |args: &[&str]| serde_json::from_str::<serde_json::Value>(&succeed(dir.path(), args)).unwrap();
    let once = json(&["generate", "second", "--prompt", "line", "-n", "40", "--state", "once", "--json"]);
    json(&["generate", "second", "--prompt", "line", "-n", "20", "--state", "twice", "--json"]);
    let twice = json(&["generate", "second", "-n", "20", "--state", "twice", "--json"]);
    assert_eq!(once["state_sha256"], twice["state_sha256"]);
}

#[test]
fn a_run_grows_in_three_ways_and_says_what_it_said() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    write_text(&at.join("text.txt"));
    train(at, "run", 3, &[]);
    let said = succeed(at, &["eval", "run", "text.txt"]);
    for (how, number) in [("--block", "0"), ("--level", "8"), ("--memory-level", "8")] {
        let out = how.trim_start_matches('-');
        succeed(at, &["grow", "run", how, number, "--out", out]);
        // A new level of a channel learns from what it reads.
        let same = succeed(at, &["eval", out, "text.txt"]) == said;
        assert_eq!(same, how != "--level", "{how}");
    }
    // Its run starts from it, wherever it is begun.
    let config = std::fs::read_to_string(at.join("block/run.toml")).unwrap();
    let from = config.lines().find_map(|line| line.strip_prefix("from = ")).unwrap().trim_matches(['"', '\'']);
    assert!(std::path::Path::new(from).is_absolute(), "{from}");
    let config = succeed(at, &["inspect", "memory-level"]);
    assert!(config.contains("memory.levels.1."), "{config}");
    let one = refuse(at, &["grow", "run", "--out", "none"]);
    assert!(one.contains("--block") && one.contains("--memory-level"), "{one}");
    let two = refuse(at, &["grow", "run", "--out", "none", "--level", "8", "--memory-level", "8"]);
    assert!(two.contains("--memory-level"), "{two}");
    assert!(!at.join("none").exists());
}

#[test]
fn tables_help_completions_and_the_manual_are_there() {
    let dir = tempfile::tempdir().unwrap();
    for name in hecate_core::AnyRule::names() {
        assert!(succeed(dir.path(), &["rules"]).contains(name));
    }
    assert!(succeed(dir.path(), &["rules", "--markdown"]).starts_with("| rule"));
    let rows: serde_json::Value = serde_json::from_str(&succeed(dir.path(), &["optimizers", "--json"])).unwrap();
    let rows = rows.as_array().unwrap();
    assert!(rows.len() > 10 && rows.iter().all(|r| r["settings"]["name"] == r["name"]));
    let table = succeed(dir.path(), &["optimizers", "--markdown"]);
    assert!(table.starts_with("| optimizer") && table.contains("precondition adam") && table.contains("matrices"));
    let one = succeed(dir.path(), &["rules", "miras"]);
    assert!(
        one.contains("retention   { name = \"l2\" }") && one.contains("hellinger") && one.contains("W [64, 64]"),
        "{one}"
    );
    let one: serde_json::Value = serde_json::from_str(&succeed(dir.path(), &["rules", "tnt", "--json"])).unwrap();
    assert_eq!((&one["name"], &one["settings"]["locals"]), (&"tnt".into(), &serde_json::json!([8, 16])));
    assert!(succeed(dir.path(), &["optimizers", "m3"]).contains("ema, ema_v, literal"));
    assert!(
        refuse(dir.path(), &["rules", "titnas"])
            .contains("`titnas`, did you mean `titans`? known names: linear_attention")
    );
    assert!(refuse(dir.path(), &["optimizers", "muno"]).contains("did you mean `muon`?"));
    assert!(succeed(dir.path(), &["completions", "bash"]).contains("hecate"));
    let manual = succeed(dir.path(), &["man"]);
    assert!(manual.contains(".TH") && manual.contains("dry\\-run"), "{manual}");
    assert!(succeed(dir.path(), &["doctor"]).contains("works"));
}

#[test]
fn an_experiment_gives_numbers_verdicts_and_a_figure() {
    let dir = tempfile::tempdir().unwrap();
    let list = succeed(dir.path(), &["experiment"]);
    assert!(list.contains("overwriting") && list.contains("parity_trained"), "{list}");
    let text = succeed(dir.path(), &["experiment", "overwriting", "--seeds", "2", "--out", "figures"]);
    assert!(text.contains("holds: ") && text.contains("2 seeds"), "{text}");
    let figure = String::from_utf8(bytes(dir.path(), "figures/overwriting.svg")).unwrap();
    assert!(figure.starts_with("<svg") && figure.contains("Hebbian"));
    let json = succeed(dir.path(), &["experiment", "overwriting", "--seeds", "2", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["seeds"], 2);
    assert!(json["musts"].as_array().unwrap().iter().all(|m| m["holds"].is_boolean() && m["measured"].is_string()));
    assert!(json["table"]["rows"][0][1]["mean"].as_f64().unwrap() > 1.0, "{json}");
    assert!(dir.path().join("runs/experiments/overwriting.svg").exists());
    let document = succeed(dir.path(), &["experiment", "overwriting", "--seeds", "2", "--markdown"]);
    assert!(document.contains("| experiment | must |") && document.contains("](experiments/overwriting.svg)"));
    std::fs::write(dir.path().join("all.md"), document.replace("## overwriting", "## overwriting\nobsolete")).unwrap();
    succeed(dir.path(), &["experiment", "overwriting", "--seeds", "2", "--update", "all.md"]);
    let updated = std::fs::read_to_string(dir.path().join("all.md")).unwrap();
    assert!(updated.contains("## overwriting\n\n") && !updated.contains("obsolete"));
    std::fs::write(dir.path().join("other.md"), "words").unwrap();
    let refused = refuse(dir.path(), &["experiment", "overwriting", "--seeds", "2", "--update", "other.md"]);
    assert!(refused.contains("other.md") && refused.contains("--markdown"), "{refused}");
    assert!(refuse(dir.path(), &["experiment", "overwritin"]).contains("overwriting"));
}

#[test]
fn mistakes_end_in_one_line_that_names_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    std::fs::write(dir.path().join("short.txt"), "abc").unwrap();
    let cases: &[(&[&str], &str)] = &[
        (&["train", "defualt"], "default"),
        (&["train", "train.step=3"], "steps"),
        (&["train", "train.steps=many"], "steps"),
        (&["train", "optimizer.name=adam"], "adamw"),
        (&["train", "model.blocks=[{mixer={type=\"memory\",rule=\"titan\"}}]"], "titans"),
        (&["train", "model.blocks=[{mixer={type=\"attention\",heads=3}}]"], "divide"),
        (&["train", "model.blocks=[{mixer={type=\"attention\",windw=3}}]"], "window"),
        (&["train", "model.vocab=100"], "256"),
        (&["train", "model=3"], "table"),
        (&["train", "model.width=-3"], "whole number"),
        (&["train", "model.width=0"], "model.width"),
        (&["train", "model.width=1000000000000"], "model.width"),
        (&["train", "model.blocks.0.repeat=1000000000000"], "model.blocks"),
        (&["train", "model.blocks.0.channel.hidden=1000000000000"], "hidden"),
        (&["train", "model.blocks.0.mixer.memory.key_width=1000000000000"], "key_width"),
        (&["train", "model.blocks.0.mixer.attention.window=1000000000000"], "window"),
        (&["train", "optimizer.weight_decy=0.1"], "weight_decay"),
        (&["train", "optimizer.name=muno"], "did you mean `muon`"),
        (&["train", "optimizer.name=muon", "optimizer.momentun=0.9"], "did you mean `momentum`"),
        (&["train", "optimizer.name=muon", "optimizer.scale=big"], "spectral"),
        (&["train", "optimizer.name=muon", "optimizer.iterations=0"], "optimizer.iterations"),
        (&["train", "optimizer.name=muon", "optimizer.rest.beta1=1"], "optimizer.rest.beta1"),
        (&["train", "optimizer.name=momentum", "optimizer.precondition.name=adm"], "adagrad"),
        (&["train", "optimizer.name=momentum", "optimizer.precondition={name=\"adam\",bet=1}"], "beta"),
        (&["train", "optimizer.name=ggd", "optimizer.loss=dot"], "optimizer.value"),
        (&["train", "sample.top_p=3"], "sample.top_p"),
        (&["train", "--data", "nowhere"], "nowhere"),
        (&["train", "train.from=nowhere"], "nowhere"),
        (&["train", "train.only=[\"*.memoy.*\"]"], "blocks.0.mixer.memory.k.weight"),
        (&["train", "--data", "short.txt"], "short.txt"),
        (&["train", "--resume", "nowhere"], "nowhere"),
        (&["generate", "nowhere"], "nowhere"),
        (&["generate"], "hecate train"),
        (&["eval", "text.txt"], "folder"),
        (&["inspect", "text.txt"], "safetensors"),
        (&["inspect", "nowhere"], "nowhere"),
        (&["bench", "nowhere"], "nowhere"),
        (&["train", "--stepz", "3"], "--stepz"),
        (&["inspect"], "<FILE>"),
        (&["trane"], "train"),
    ];
    for (args, part) in cases {
        let line = refuse(dir.path(), args);
        assert!(line.contains(part), "{args:?}: {line}");
    }
    assert!(!dir.path().join("runs").exists(), "nothing was made on the way");
}

#[test]
fn a_dry_run_shows_the_config_the_treatments_and_the_memory_and_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = run(dir.path(), &["build", "--dry-run", "optimizer.weight_decay=0.25"]);
    let (config, shown) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    assert!(out.status.success(), "{shown}");
    let config: toml::Table = toml::from_str(&config).unwrap();
    assert_eq!(config["optimizer"]["weight_decay"].as_float(), Some(0.25), "one setting is changed alone");
    for part in ["memory: ", "text: ", "attention.q", "memory.gates.bias", "embedding"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let plan: serde_json::Value =
        serde_json::from_str(&succeed(dir.path(), &["train", "--dry-run", "--json"])).unwrap();
    let gates = plan["treatments"].as_array().unwrap().iter().find(|t| t["kind"] == "gate").unwrap();
    assert_eq!(gates["weight_decay"], false);
    assert!(gates["tensors"].as_array().unwrap().iter().any(|t| t == "blocks.1.mixer.memory.gates.bias"));
    assert!(plan["memory"]["parameters"].as_u64() > Some(1 << 20));
    let muon = run(dir.path(), &["train", "--dry-run", "optimizer.name=muon", "optimizer.rest.rate=0.5"]);
    let shown = String::from_utf8(muon.stderr).unwrap();
    let by = |kind: &str| shown.lines().find(|l| l.starts_with(kind)).unwrap().split_whitespace().nth(1).unwrap();
    assert_eq!(["matrix", "embedding", "gate", "norm", "conv"].map(by), ["muon", "adamw", "adamw", "adamw", "adamw"]);
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_run_is_measured_on_the_text_that_it_held_out() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let trained = json(&train(dir.path(), "run", 2, &["--json"]));
    let whole = std::fs::metadata(dir.path().join("text.txt")).unwrap().len();
    assert_eq!(trained["learn"]["bytes"], whole / 10);
    for model in ["run", "run/checkpoints/step-2"] {
        let measured = json(&succeed(dir.path(), &["eval", model, "--json"]));
        assert_eq!(measured, trained["learn"], "{model}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_without_room_or_without_a_reader_does_not_panic() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["rules"][..], &["completions", "bash"], &["man"], &["doctor"], &["experiment"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let out = hecate(dir.path()).args(args).stdout(full).output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{args:?}: {text}");
        assert!(text.starts_with("error: ") && text.trim_end().lines().count() == 1, "{args:?}: {text}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = hecate(dir.path()).args(args).stdout(writer).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{args:?}: {out:?}");
    }
    // What is said beside it is lost, and the work is done.
    write_text(&dir.path().join("text.txt"));
    for deaf in ["full", "closed"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let stderr: std::process::Stdio = if deaf == "full" { full.into() } else { writer.into() };
        let line = [&["train", "default"], TINY, &["train.steps=2", "--data", "text.txt", "--out", deaf]].concat();
        assert!(hecate(dir.path()).args(line).stderr(stderr).output().unwrap().status.success(), "{deaf}");
        assert!(dir.path().join(deaf).join("report.html").exists());
    }
}

#[test]
fn an_existing_run_is_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    train(dir.path(), "run", 2, &[]);
    let before = bytes(dir.path(), "run/model.safetensors");
    let mut args = vec!["train", "default", "train.steps=1", "--data", "text.txt", "--out", "run"];
    args.extend(TINY);
    assert!(refuse(dir.path(), &args).contains("--resume"));
    assert_eq!(bytes(dir.path(), "run/model.safetensors"), before);
}

#[test]
fn states_and_weights_that_are_cut_or_foreign_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    train(dir.path(), "a", 1, &[]);
    train(dir.path(), "b", 2, &[]);
    succeed(dir.path(), &["generate", "a", "-n", "3", "--state", "state"]);
    assert!(refuse(dir.path(), &["generate", "b", "-n", "3", "--state", "state"]).contains("another model"));
    let whole = bytes(dir.path(), "state");
    std::fs::write(dir.path().join("cut"), &whole[..whole.len() / 2]).unwrap();
    refuse(dir.path(), &["generate", "a", "-n", "3", "--state", "cut"]);
    let weights = bytes(dir.path(), "a/model.safetensors");
    std::fs::write(dir.path().join("a/model.safetensors"), &weights[..weights.len() - 1]).unwrap();
    assert!(refuse(dir.path(), &["generate", "a", "-n", "3"]).contains("a/model.safetensors"), "the file is named");
}

#[test]
fn a_run_that_diverges_names_the_step_and_keeps_its_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let mut args = vec!["train", "default", "train.steps=50", "--data", "text.txt", "--out", "run"];
    args.extend(TINY);
    args.extend(["train.clip=0", "schedule.peak=1e30", "schedule.warmup_steps=0"]);
    let out = run(dir.path(), &args);
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(!out.status.success() && text.contains("error: step ") && text.contains("non-finite"), "{text}");
    assert!(text.contains("--resume run"), "{text}");
    assert!(dir.path().join("run/checkpoints/step-0").exists());
    // As it says: with a rate that a model bears, the same run goes on.
    let config = String::from_utf8(bytes(dir.path(), "run/run.toml")).unwrap();
    let peak = config.lines().find(|line| line.starts_with("peak = ")).unwrap();
    std::fs::write(dir.path().join("run/run.toml"), config.replace(peak, "peak = 1e-3")).unwrap();
    assert!(succeed(dir.path(), &["train", "--resume", "run"]).contains("held-out"));
}

/// Trains the tiny run with one block for two steps: what stands on standard output and on standard error.
fn block(folder: &std::path::Path, out: &str, block: &str, more: &[&str]) -> [String; 2] {
    let block = format!("model.blocks=[{{{block}}}]");
    let line = [&["train", "default"], TINY, &["train.steps=2", "--data", "text.txt", "--out", out, &block], more];
    let done = run(folder, &line.concat());
    let [said, warned] = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(done.status.success(), "{warned}");
    [said, warned]
}

#[test]
fn a_model_whose_tokens_see_ahead_warns_wherever_it_is_scored() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let mac = |causal| {
        let mixer = format!("type=\"mac\",segment=16,causal={causal},attention={{heads=2}},memory={{heads=2}}");
        format!("mixer={{{mixer}}},channel={{type=\"mlp\"}}")
    };
    let [said, warned] = block(dir.path(), "ahead", &mac(false), &["train.sample_every=1"]);
    assert!(warned.contains("warning: mixer.causal = false in block 0"), "{warned}");
    assert!(said.contains("held-out bits per byte") && dir.path().join("ahead/report.html").exists(), "{said}");
    for command in [vec!["eval", "ahead", "text.txt"], vec!["inspect", "--config", "ahead"]] {
        let done = run(dir.path(), &command);
        assert!(done.status.success());
        assert!(String::from_utf8_lossy(&done.stderr).contains("warning: mixer.causal = false"), "{command:?}");
    }
    assert!(refuse(dir.path(), &["generate", "ahead", "--prompt", "line"]).contains("causal = true"));
    let [_, warned] = block(dir.path(), "causal", &mac(true), &[]);
    assert!(!warned.contains("causal = false"), "{warned}");
}

#[test]
fn a_run_that_would_hardly_learn_where_memories_start_says_so() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let deep = "mixer={type=\"memory\",rule=\"titans_mlp\",heads=2},channel={type=\"mlp\"}";
    let [_, warned] = block(dir.path(), "carried", deep, &[]);
    assert!(warned.contains("train.reset_every = 2"), "{warned}");
    let [_, warned] = block(dir.path(), "reset", deep, &["train.reset_every=2"]);
    assert!(!warned.contains("reset_every = 2 starts"), "{warned}");
}

#[test]
fn what_a_continuum_memory_learns_is_measured_against_none_of_it() {
    let dir = tempfile::tempdir().unwrap();
    write_text(&dir.path().join("text.txt"));
    let hope = "mixer={type=\"attention\",heads=2,window=8},channel={type=\"cms\",levels=[{period=8},{period=64}]}";
    let [said, _] = block(dir.path(), "run", hope, &[]);
    assert!(said.contains("with memory frozen"), "{said}");
}
