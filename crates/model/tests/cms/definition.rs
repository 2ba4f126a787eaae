//! The definition of continuum memories, token by token: gradients from dual numbers, steps written out.

use super::*;

/// The same model whose levels only gather.
pub(super) fn still(model: &Model) -> Model {
    let mut config = model.config().clone();
    for block in &mut config.blocks {
        if let ChannelConfig::Cms(cms) = &mut block.channel {
            cms.consolidation = None;
            cms.levels.iter_mut().for_each(|level| level.period = Some(NEVER));
        }
    }
    Model::new(&config).unwrap()
}

pub(super) fn lift<F: Scalar>(x: &[f64]) -> Vec<F> {
    x.iter().map(|&x| F::from_f64(x)).collect()
}

/// `log sum exp - logit`.
pub(super) fn loss<F: Scalar>(logits: &[F], target: u32) -> F {
    logits.iter().map(|l| l.exp()).sum::<F>().ln() - logits[target as usize]
}

/// One token, of which nothing is learned; its logits.
pub(super) fn one<O: Ops>(
    ops: &O,
    model: &Model,
    params: &Params<O::F>,
    state: &mut State<O::F>,
    token: u32,
) -> Vec<O::F> {
    let mut ws = Workspace::default();
    model.forward(ops, params, state, &[token], &Access::Learn, Logits::Last, &mut ws).unwrap().to_vec()
}

/// The place of a tensor among those that a sequence changes.
pub(super) fn place(tensors: &[NamedTensor], name: &str) -> std::ops::Range<usize> {
    tensors.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no {name}")).runs[0].clone()
}

/// Which level changes a value of a matrix, for each of its values.
pub(super) fn level_of(config: &CmsConfig, unit: &str, up: bool, shape: &[usize]) -> Vec<usize> {
    let (hidden, k) = (config.hidden.unwrap(), config.levels.len());
    let share = |unit: usize| unit % hidden / (hidden / k);
    let at = |i: usize| if up { share(i % shape[1]) } else { share(i / shape[1]) };
    (0..shape[0] * shape[1])
        .map(|i| match config.arrangement {
            Arrangement::Headwise => at(i),
            _ => unit.rsplit('.').next().unwrap().parse().unwrap(),
        })
        .collect()
}

/// The block of a matrix, and its continuum memory.
pub(super) fn cms_of(model: &Model, matrix: &NamedTensor) -> (usize, CmsConfig) {
    let block: usize = matrix.name.split('.').nth(1).unwrap().parse().unwrap();
    let ChannelConfig::Cms(config) = &model.config().expanded()[block].channel else { unreachable!() };
    (block, config.clone())
}

/// Whether the gate of a matrix's continuum memory skips a token with these logits.
pub(super) fn skips(model: &Model, matrix: &NamedTensor, logits: &[f64], target: u32) -> bool {
    let (_, config) = cms_of(model, matrix);
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    config.gate.is_some_and(|gate| {
        let surprise = match gate.signal {
            Surprise::Loss => loss(logits, target),
            Surprise::Entropy => -logits.iter().map(|l| l.exp() / sum * (l - sum.ln())).sum::<f64>(),
            Surprise::Norm => panic!("the definition here does not see it"),
        };
        surprise < gate.threshold
    })
}

/// Whether a matrix has a slow copy, and it is read.
pub(super) fn slow_copies(model: &Model, matrix: &NamedTensor) -> Option<bool> {
    let (_, config) = cms_of(model, matrix);
    config.consolidation.map(|c| c.reads == Reads::Both)
}

/// What calls may write, and the token before which each of these rights ends.
pub(super) type Rights = [(usize, Access)];

/// Everything may be written in serving.
pub(super) const ALL: Option<&Rights> = Some(&[(TOKENS.len(), Access::Learn)]);

/// The size of a level's step from the gradient of token `t`, and 0 where it must not learn from that; without rights, in
/// training.
pub(super) fn rate_at(model: &Model, block: usize, level: usize, rights: Option<&Rights>, t: usize) -> f64 {
    let ChannelConfig::Cms(config) = &model.config().expanded()[block].channel else { unreachable!() };
    let writes = |rights: &Rights| rights.iter().find(|(end, _)| t < *end).unwrap().1.writes(block, level);
    match rights {
        Some(rights) if writes(rights) => config.levels[level].serve_rate.unwrap_or(config.levels[level].rate),
        None if config.periods()[level] < model.config().context as u64 => config.levels[level].rate,
        _ => 0.0,
    }
}

/// The gradient of a token's loss along its own column with respect to every matrix; `logits` are what the token gave.
pub(super) fn slopes(
    model: &Model,
    (ops, still, constants): (&Reference<Dual<f64>>, &Model, &Params<Dual<f64>>),
    matrices: &[&NamedTensor],
    before: &State<Dual<f64>>,
    [token, target]: [u32; 2],
    logits: &[f64],
) -> Vec<Vec<f64>> {
    let slope = |i: usize| {
        let mut nudged = before.clone();
        nudged.fast[i].eps = 1.0;
        loss(&one(ops, still, constants, &mut nudged, token), target).eps
    };
    let of = |matrix: &&NamedTensor| match skips(model, matrix, logits, target) {
        true => vec![0.0; matrix.runs[0].len()],
        false => matrix.runs[0].clone().map(slope).collect(),
    };
    matrices.iter().map(of).collect()
}

/// What the definition says: logits of every token, and what the sequence has added to each weight at the end.
pub(super) fn by_definition(
    model: &Model,
    params: &Params<f64>,
    rights: Option<&Rights>,
) -> (Vec<f64>, BTreeMap<String, Vec<f64>>) {
    let still = still(model);
    let tensors = still.state_layout().fast_tensors();
    let ops = Reference::<Dual<f64>>::new();
    let constants = Params { data: lift::<Dual<f64>>(&params.data).into() };
    let matrices: Vec<&NamedTensor> = tensors.iter().filter(|t| t.name.ends_with(".delta")).collect();
    let mut state: State<Dual<f64>> = still.new_state();
    let mut gathered: Vec<Vec<f64>> = matrices.iter().map(|t| vec![0.0; t.runs[0].len()]).collect();
    let (mut starts, mut all, mut stable) = (gathered.clone(), gathered.clone(), gathered.clone());
    let mut logits = Vec::new();
    for (t, &token) in TOKENS.iter().enumerate() {
        let before = state.clone();
        logits.extend(one(&ops, &still, &constants, &mut state, token).iter().map(|l| l.re));
        let Some(&target) = TOKENS.get(t + 1) else { break };
        let row = &logits[t * VOCAB..];
        let slopes = slopes(model, (&ops, &still, &constants), &matrices, &before, [token, target], row);
        for (m, matrix) in matrices.iter().enumerate() {
            let unit = matrix.name.trim_end_matches(".delta").trim_end_matches(".up").trim_end_matches(".down");
            let (block, config) = cms_of(model, matrix);
            let periods = config.periods();
            let (up, place) = (matrix.name.ends_with(".up.delta"), matrix.runs[0].clone());
            let levels = level_of(&config, unit, up, &matrix.shape);
            let due = |level: usize| (t as u64 + 1).is_multiple_of(periods[level]);
            let rate = |level: usize| rate_at(model, block, level, rights, t);
            let mean = config.reduction == Reduction::Mean;
            let step = |level: usize| rate(level) / if mean { periods[level] as f64 } else { 1.0 };
            let (keep, both) = config.consolidation.map_or((1.0, false), |c| (c.keep, c.reads == Reads::Both));
            for (i, &level) in levels.iter().enumerate() {
                let delta = &mut state.fast[place.start + i];
                // The model that only gathers knows no slow copy: it stands in `delta` with the rest.
                delta.re -= if both { stable[m][i] } else { 0.0 };
                gathered[m][i] += if rate(level) > 0.0 { slopes[m][i] } else { 0.0 };
                if due(level) && rate(level) > 0.0 {
                    let warm =
                        ((t as f64 + 1.0) / periods[level] as f64 / config.levels[level].warmup.max(1) as f64).min(1.0);
                    all[m][i] += gathered[m][i];
                    delta.re = (1.0 - config.levels[level].decay) * delta.re - warm * step(level) * gathered[m][i];
                    gathered[m][i] = 0.0;
                    stable[m][i] = keep * stable[m][i] + (1.0 - keep) * delta.re;
                }
                let slower = level + 1;
                if config.arrangement == Arrangement::Nested
                    && slower < periods.len()
                    && due(slower)
                    && rate(level) > 0.0
                {
                    all[m][i] += std::mem::take(&mut gathered[m][i]);
                    if config.online {
                        starts[m][i] -= step(slower) * all[m][i];
                    }
                    all[m][i] = 0.0;
                    delta.re = if both { 0.0 } else { starts[m][i] + stable[m][i] };
                }
                delta.re += if both { stable[m][i] } else { 0.0 };
            }
        }
    }
    let mut ends = BTreeMap::new();
    for (m, matrix) in matrices.iter().enumerate() {
        let mut added: Vec<f64> = state.fast[matrix.runs[0].clone()].iter().map(|x| x.re).collect();
        if let Some(both) = slow_copies(model, matrix) {
            ends.insert(matrix.name.replace(".delta", ".stable"), stable[m].clone());
            added.iter_mut().zip(&stable[m]).for_each(|(a, s)| *a -= if both { *s } else { 0.0 });
        }
        ends.insert(matrix.name.clone(), added);
        ends.insert(matrix.name.replace(".delta", ".gathered"), gathered[m].clone());
    }
    (logits, ends)
}
