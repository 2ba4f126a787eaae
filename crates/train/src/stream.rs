//! Streams of tokens: what training, adaptation and evaluation read.
//!
//! A [`Stream`] is tokens and the places where documents start. A [`Segment`] is a stretch of it within which
//! state is carried: `n + 1` tokens that make `n` predictions, each of the next token. A [`Pass`] walks the stream
//! once. [`Lanes`] walk it side by side and for ever: lane `b` of `B` starts at `b / B` of the stream, goes on to
//! its end, wraps around and goes on. Nothing is shuffled and nothing is hidden: how often a lane has wrapped is in
//! its [`Cursor`], and a wrap is a boundary like one between documents.
//!
//! With [`Boundary::Reset`] the state is new after each boundary and nothing reaches across: a document's first
//! token is an input only, since nothing comes before it. With [`Boundary::Carry`] the stream is one text, and a
//! document's first token is predicted from the last one of the document before.

use crate::checkpoint::hex;
use crate::corpus::Part;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What happens to the state between two documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boundary {
    /// Each document starts with a new state.
    #[default]
    Reset,
    /// The state goes on into the next document.
    Carry,
}

/// Tokens, narrow where they are bytes: a corpus of bytes takes one byte per token.
#[derive(Clone, Debug)]
enum Tokens {
    Narrow(Vec<u8>),
    Wide(Vec<u32>),
}

impl Tokens {
    fn len(&self) -> usize {
        match self {
            Tokens::Narrow(t) => t.len(),
            Tokens::Wide(t) => t.len(),
        }
    }
    fn get(&self, i: usize) -> u32 {
        match self {
            Tokens::Narrow(t) => u32::from(t[i]),
            Tokens::Wide(t) => t[i],
        }
    }
}

/// Tokens with boundaries between documents.
#[derive(Clone, Debug)]
pub struct Stream {
    origin: String,
    tokens: Tokens,
    /// Ascending, the first one 0; every document holds at least one token.
    starts: Vec<usize>,
    boundary: Boundary,
}

/// Tokens that are read with one state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// True where the state must be new before the first input: where a lane or a pass begins and, with
    /// [`Boundary::Reset`], where a document begins or a lane has wrapped around.
    pub fresh: bool,
    /// `[n + 1]`: the inputs, and the last target.
    pub tokens: Vec<u32>,
}

impl Segment {
    /// `[n]`: what the model reads.
    pub fn inputs(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }
    /// `[n]`: what it must predict after reading each input.
    pub fn targets(&self) -> &[u32] {
        &self.tokens[1..]
    }
    /// `n`, at least 1.
    pub fn predictions(&self) -> usize {
        self.tokens.len() - 1
    }
}

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The next input token. It is always followed by one that may be predicted from it, except at the end of a pass.
    pub position: usize,
    /// How often the end of the stream was passed.
    pub wraps: u64,
    /// True where the state must be new before the next input.
    pub fresh: bool,
}

impl Stream {
    /// The tokens of a part of a corpus, each document on its own. `origin` is named in errors.
    pub fn new(origin: &str, part: Part<'_>, tokenizer: Tokenizer, boundary: Boundary) -> Self {
        let tokens = match tokenizer {
            Tokenizer::Bytes => Tokens::Narrow(part.bytes.to_vec()),
        };
        Self { origin: origin.to_string(), tokens, starts: part.starts(), boundary }
    }

    /// Tokens that are there already. `starts` are the first tokens of documents, ascending, the first one 0.
    ///
    /// # Panics
    /// If `starts` are not that.
    pub fn from_tokens(origin: &str, ids: Vec<u32>, starts: Vec<usize>, boundary: Boundary) -> Self {
        assert!(starts.first().is_none_or(|&s| s == 0) && starts.is_sorted_by(|a, b| a < b), "starts ascend from 0");
        assert!(starts.last().map_or(ids.is_empty(), |&s| s < ids.len()), "every document holds a token");
        let narrow: Option<Vec<u8>> = ids.iter().map(|&id| u8::try_from(id).ok()).collect();
        let tokens = narrow.map_or(Tokens::Wide(ids), Tokens::Narrow);
        Self { origin: origin.to_string(), tokens, starts, boundary }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True if there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.starts.len()
    }

    /// Predictions of one [`Pass`]. All other tokens come first in their document (or in the stream): a
    /// measurement over all tokens has to say what it charges for them.
    pub fn predictions(&self) -> usize {
        match self.boundary {
            Boundary::Reset => self.len() - self.starts.len(),
            Boundary::Carry => self.len().saturating_sub(1),
        }
    }

    /// Predictions of one lane between two visits of the same token.
    fn predictions_per_round(&self) -> usize {
        match self.boundary {
            Boundary::Reset => self.predictions(),
            Boundary::Carry => self.len(),
        }
    }

    /// sha256 over tokens, document starts and boundary mode: a cursor belongs to one fingerprint.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(format!("{:?} {:?} {}\n", self.boundary, self.starts, self.len()));
        let mut block = Vec::with_capacity(4096);
        for first in (0..self.len()).step_by(1024) {
            block.clear();
            let ids = first..(first + 1024).min(self.len());
            block.extend(ids.flat_map(|i| self.tokens.get(i).to_le_bytes()));
            digest.update(&block);
        }
        hex(digest)
    }

    /// The end of the stretch that holds `position` and is read with one state.
    fn stretch_end(&self, position: usize) -> usize {
        match self.boundary {
            Boundary::Carry => self.len(),
            Boundary::Reset => {
                let next = self.starts.partition_point(|&s| s <= position);
                self.starts.get(next).copied().unwrap_or(self.len())
            }
        }
    }

    /// Moves a cursor that stands on a stretch's last token to the next stretch that has something to predict,
    /// past the end of the stream only with `wrap`.
    fn settle(&self, cursor: &mut Cursor, wrap: bool) {
        while cursor.position < self.len() && cursor.position + 1 == self.stretch_end(cursor.position) {
            if self.boundary == Boundary::Carry && wrap {
                return;
            }
            cursor.position += 1;
            cursor.fresh = true;
            if wrap && cursor.position == self.len() {
                cursor.position = 0;
                cursor.wraps += 1;
            }
        }
    }

    /// The next segment, of at most `max >= 1` predictions; `None` at the end of a pass.
    fn segment(&self, cursor: &mut Cursor, max: usize, wrap: bool) -> Option<Segment> {
        if cursor.position >= self.len() {
            return None;
        }
        let ring = wrap && self.boundary == Boundary::Carry;
        let n = if ring { max } else { max.min(self.stretch_end(cursor.position) - cursor.position - 1) };
        let ids = cursor.position..=cursor.position + n;
        let tokens = ids.map(|i| self.tokens.get(if ring { i % self.len() } else { i })).collect();
        let segment = Segment { fresh: cursor.fresh, tokens };
        cursor.fresh = false;
        cursor.position += n;
        if ring {
            cursor.wraps += (cursor.position / self.len()) as u64;
            cursor.position %= self.len();
        }
        self.settle(cursor, wrap);
        Some(segment)
    }
}

/// One walk through a stream, from its first token to its last.
#[derive(Clone, Debug)]
pub struct Pass<'a> {
    stream: &'a Stream,
    cursor: Cursor,
}

impl<'a> Pass<'a> {
    /// At the beginning.
    pub fn new(stream: &'a Stream) -> Self {
        let mut cursor = Cursor { position: 0, wraps: 0, fresh: true };
        stream.settle(&mut cursor, false);
        Self { stream, cursor }
    }

    /// The next segment, of at most `max` predictions; `None` at the end.
    ///
    /// # Panics
    /// If `max` is 0.
    pub fn next(&mut self, max: usize) -> Option<Segment> {
        assert!(max > 0, "a segment holds at least one prediction");
        self.stream.segment(&mut self.cursor, max, false)
    }
}

/// Cursors that walk one stream side by side and wrap around at its end.
#[derive(Clone, Debug)]
pub struct Lanes {
    stream: Stream,
    tokens_per_step: usize,
    position: LanesPosition,
}

/// Where all lanes are: what a checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanesPosition {
    /// [`Stream::fingerprint`] of the stream.
    pub fingerprint: String,
    /// Predictions made so far, over all lanes.
    pub predictions: u64,
    /// One per lane.
    pub lanes: Vec<Cursor>,
}

impl Lanes {
    /// `lanes` lanes, spread evenly, that make `tokens_per_step` predictions each in every step.
    ///
    /// # Errors
    /// [`Error::TooShort`] where the stream holds fewer predictions than one step makes; [`Error::Config`] where a
    /// number is 0.
    pub fn new(stream: Stream, lanes: usize, tokens_per_step: usize) -> Result<Self> {
        check_size(&stream, lanes, tokens_per_step)?;
        let start = |lane: usize| {
            // In 128 bits, so that no product overflows.
            let position = (stream.len() as u128 * lane as u128 / lanes as u128) as usize;
            let mut cursor = Cursor { position, wraps: 0, fresh: true };
            stream.settle(&mut cursor, true);
            cursor
        };
        let cursors = (0..lanes).map(start).collect();
        let position = LanesPosition { fingerprint: stream.fingerprint(), predictions: 0, lanes: cursors };
        Ok(Self { stream, tokens_per_step, position })
    }

    /// Lanes that go on where `position` was taken.
    ///
    /// # Errors
    /// [`Error::Cursor`] where the position belongs to another text, another number of lanes, or lies outside;
    /// otherwise as [`Lanes::new`].
    pub fn resume(stream: Stream, lanes: usize, tokens_per_step: usize, position: LanesPosition) -> Result<Self> {
        check_size(&stream, lanes, tokens_per_step)?;
        let differs = |what, expected: String, got: String| Err(Error::Cursor { what, expected, got });
        if position.lanes.len() != lanes {
            return differs("the number of lanes", position.lanes.len().to_string(), lanes.to_string());
        }
        let fingerprint = stream.fingerprint();
        if position.fingerprint != fingerprint {
            return differs("the training text's fingerprint", position.fingerprint, fingerprint);
        }
        for cursor in &position.lanes {
            let mut settled = *cursor;
            stream.settle(&mut settled, true);
            if cursor.position >= stream.len() || settled != *cursor {
                let expected = format!("{} tokens and a lane at token {}", stream.len(), cursor.position);
                return differs("the training text", expected, format!("{} tokens", stream.len()));
            }
        }
        Ok(Self { stream, tokens_per_step, position })
    }

    /// The segments of one step, per lane: `tokens_per_step` predictions in each lane, always.
    pub fn next_step(&mut self) -> Vec<Vec<Segment>> {
        let (stream, wanted) = (&self.stream, self.tokens_per_step);
        let lane = |cursor: &mut Cursor| {
            let (mut segments, mut left) = (vec![], wanted);
            while left > 0 {
                let segment = stream.segment(cursor, left, true).expect("a stream that wraps has no end");
                left -= segment.predictions();
                segments.push(segment);
            }
            segments
        };
        let step = self.position.lanes.iter_mut().map(lane).collect();
        self.position.predictions += (wanted * self.position.lanes.len()) as u64;
        step
    }

    /// Where the lanes are.
    pub fn position(&self) -> &LanesPosition {
        &self.position
    }

    /// What they read.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Predictions so far as a multiple of those that the stream holds: 1.0 after one epoch.
    pub fn epochs(&self) -> f64 {
        self.position.predictions as f64 / self.stream.predictions_per_round() as f64
    }
}

fn check_size(stream: &Stream, lanes: usize, tokens: usize) -> Result<()> {
    if lanes == 0 || tokens == 0 {
        let reason = format!("a step of {lanes} lanes x {tokens} tokens is empty, expected at least 1 x 1");
        return Err(Error::Config { origin: stream.origin.clone(), reason });
    }
    let (have, need) = (stream.predictions_per_round(), lanes.saturating_mul(tokens));
    if have < need || stream.len() < 2 {
        return Err(Error::TooShort { origin: stream.origin.clone(), have, need, lanes, tokens });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Tokens that say where they are, so that a test sees what was read.
    fn stream(len: usize, starts: &[usize], boundary: Boundary) -> Stream {
        Stream::from_tokens("test", (0..len as u32).map(|i| i * 10).collect(), starts.to_vec(), boundary)
    }

    fn position(token: u32) -> usize {
        token as usize / 10
    }

    const STARTS: &[usize] = &[0, 40, 41, 42, 100, 103];

    #[test]
    fn a_pass_predicts_every_token_once_except_the_first_of_each_document() {
        for max in [1, 2, 7, 1000] {
            let stream = stream(128, STARTS, Boundary::Reset);
            let mut pass = Pass::new(&stream);
            let mut targets = vec![];
            while let Some(segment) = pass.next(max) {
                let first = position(segment.tokens[0]);
                assert_eq!(segment.fresh, STARTS.contains(&first), "segment at {first}");
                assert!(segment.predictions() <= max);
                targets.extend(segment.targets().iter().map(|&t| position(t)));
            }
            let expected: Vec<usize> = (0..128).filter(|i| !STARTS.contains(i)).collect();
            assert_eq!(targets, expected, "at most {max}");
            assert_eq!(targets.len(), stream.predictions());
        }
    }

    #[test]
    fn a_pass_that_carries_is_fresh_once_and_predicts_all_but_the_first_token() {
        let stream = stream(128, STARTS, Boundary::Carry);
        let mut pass = Pass::new(&stream);
        let (mut targets, mut fresh) = (vec![], 0);
        while let Some(segment) = pass.next(10) {
            fresh += usize::from(segment.fresh);
            targets.extend(segment.targets().iter().map(|&t| position(t)));
        }
        assert_eq!((targets, fresh), ((1..128).collect(), 1));
    }

    #[test]
    fn segments_of_a_lane_join_without_a_gap_and_break_only_at_boundaries() {
        let mut lanes = Lanes::new(stream(128, STARTS, Boundary::Reset), 3, 17).unwrap();
        let mut last: Vec<Option<usize>> = vec![None; 3];
        for _ in 0..50 {
            for (lane, segments) in lanes.next_step().into_iter().enumerate() {
                assert_eq!(segments.iter().map(Segment::predictions).sum::<usize>(), 17);
                for segment in segments {
                    let at: Vec<usize> = segment.tokens.iter().map(|&t| position(t)).collect();
                    assert!(at.windows(2).all(|w| w[1] == w[0] + 1), "{at:?} is one stretch");
                    assert!(at[1..].iter().all(|p| !STARTS.contains(p)), "{at:?} reaches across a boundary");
                    match last[lane] {
                        None => assert!(segment.fresh),
                        Some(end) if segment.fresh => {
                            assert!(STARTS.contains(&at[0]), "fresh at {}", at[0]);
                            assert!(STARTS.contains(&(end + 1)) || end == 127, "left a document at {end}");
                        }
                        Some(end) => assert_eq!(at[0], end, "carried from {end} to {}", at[0]),
                    }
                    last[lane] = at.last().copied();
                }
            }
        }
    }

    #[test]
    fn the_lanes_together_predict_every_token_exactly_once_per_epoch() {
        let counts = |boundary, starts: &[usize]| {
            let mut lanes = Lanes::new(stream(120, starts, boundary), 4, 6).unwrap();
            let mut counts = BTreeMap::new();
            for _ in 0..5 {
                for segment in lanes.next_step().concat() {
                    segment.targets().iter().for_each(|&t| *counts.entry(position(t)).or_insert(0) += 1);
                }
            }
            (counts, lanes)
        };
        let (seen, lanes) = counts(Boundary::Carry, STARTS);
        assert_eq!(seen, (0..120).map(|p| (p, 1)).collect());
        assert_eq!(lanes.epochs(), 1.0);
        assert_eq!(lanes.position().lanes.iter().map(|l| l.wraps).collect::<Vec<_>>(), [0, 0, 0, 1]);
    }

    #[test]
    fn a_round_of_one_lane_predicts_every_token_that_can_be() {
        for (boundary, expected) in [
            (Boundary::Carry, (0..120).collect::<Vec<usize>>()),
            (Boundary::Reset, (0..120).filter(|p| !STARTS.contains(p)).collect()),
        ] {
            for lane in 0..4 {
                let mut lanes = Lanes::new(stream(120, STARTS, boundary), 4, 1).unwrap();
                let mut seen: Vec<usize> = (0..lanes.stream().predictions_per_round())
                    .map(|_| position(lanes.next_step()[lane][0].targets()[0]))
                    .collect();
                seen.sort_unstable();
                assert_eq!(seen, expected, "lane {lane}, {boundary:?}");
            }
        }
    }

    #[test]
    fn a_resumed_reader_equals_one_that_never_stopped() {
        for boundary in [Boundary::Reset, Boundary::Carry] {
            for stop in 0..40 {
                let mut whole = Lanes::new(stream(128, STARTS, boundary), 3, 7).unwrap();
                (0..stop).for_each(|_| drop(whole.next_step()));
                let saved = serde_json::to_string(whole.position()).unwrap();
                let position = serde_json::from_str(&saved).unwrap();
                let mut resumed = Lanes::resume(stream(128, STARTS, boundary), 3, 7, position).unwrap();
                for _ in 0..20 {
                    assert_eq!(resumed.next_step(), whole.next_step());
                }
                assert_eq!(resumed.position(), whole.position());
            }
        }
    }

    #[test]
    fn a_position_of_another_text_or_setting_is_refused() {
        let text = || stream(128, STARTS, Boundary::Reset);
        let position = Lanes::new(text(), 3, 7).unwrap().position().clone();
        let refused = |stream, lanes, position: LanesPosition| {
            matches!(Lanes::resume(stream, lanes, 7, position), Err(Error::Cursor { .. }))
        };
        assert!(refused(text(), 2, position.clone()), "another number of lanes");
        assert!(refused(stream(127, STARTS, Boundary::Reset), 3, position.clone()), "another text");
        assert!(refused(stream(128, &[0], Boundary::Reset), 3, position.clone()), "other documents");
        assert!(refused(stream(128, STARTS, Boundary::Carry), 3, position.clone()), "another boundary mode");
        for wild in [128, usize::MAX, 127, 40] {
            let mut position = position.clone();
            position.lanes[1].position = wild;
            assert!(refused(text(), 3, position), "a cursor at {wild}");
        }
    }

    #[test]
    fn a_text_shorter_than_one_step_is_refused_with_the_numbers() {
        let error = Lanes::new(stream(20, &[0, 5], Boundary::Reset), 2, 10).unwrap_err();
        assert!(matches!(error, Error::TooShort { have: 18, need: 20, lanes: 2, tokens: 10, .. }), "{error}");
        assert!(Lanes::new(stream(22, &[0, 5], Boundary::Reset), 2, 10).is_ok());
        let ones: Vec<usize> = (0..9).collect();
        assert!(matches!(Lanes::new(stream(9, &ones, Boundary::Reset), 1, 1), Err(Error::TooShort { have: 0, .. })));
        assert!(matches!(Lanes::new(stream(0, &[], Boundary::Carry), 1, 1), Err(Error::TooShort { .. })));
        assert!(matches!(Lanes::new(stream(9, &[0], Boundary::Reset), 0, 1), Err(Error::Config { .. })));
        assert!(Pass::new(&stream(9, &ones, Boundary::Reset)).next(4).is_none());
    }

    #[test]
    fn a_corpus_becomes_a_stream_with_its_documents() {
        let docs = [("a".to_string(), b"abc".to_vec()), ("b".to_string(), vec![255, 0])];
        let corpus = crate::corpus::Corpus::from_documents("two", docs).unwrap();
        let stream = Stream::new("two", corpus.whole(), Tokenizer::Bytes, Boundary::Reset);
        assert_eq!((stream.len(), stream.documents(), stream.predictions()), (5, 2, 3));
        let mut pass = Pass::new(&stream);
        assert_eq!(pass.next(9).unwrap().tokens, [97, 98, 99]);
        assert_eq!(pass.next(9).unwrap(), Segment { fresh: true, tokens: vec![255, 0] });
        assert!(pass.next(9).is_none());
    }

    #[test]
    fn bytes_and_wide_tokens_have_the_same_behaviour_and_different_fingerprints() {
        let narrow = Stream::from_tokens("n", vec![1, 2, 3], vec![0], Boundary::Carry);
        let wide = Stream::from_tokens("w", vec![1, 2, 300], vec![0], Boundary::Carry);
        assert!(matches!((&narrow.tokens, &wide.tokens), (Tokens::Narrow(_), Tokens::Wide(_))));
        assert_eq!(Pass::new(&wide).next(9).unwrap().tokens, [1, 2, 300]);
        assert_ne!(narrow.fingerprint(), wide.fingerprint());
        assert_eq!(narrow.fingerprint(), narrow.clone().fingerprint());
    }
}
