"""`hecate.load(path).generate(...)` and the life of a state."""

import _thread
import json
import shutil
import signal
import threading

import hecate
import pytest

PROMPT = "Licensed under"


def test_a_generation_tells_its_text_tokens_and_end(model):
    result = model.generate(PROMPT, max_tokens=20, seed=1)
    assert str(result) == result.text
    assert result.bytes == bytes(result.tokens) and len(result.tokens) == 20
    assert result.text == result.bytes.decode("utf-8", errors="replace")
    assert result.stopped == "max_tokens"
    assert result.state.tokens == len(PROMPT) + 19  # the last token drawn is read by the next call
    assert PROMPT not in result.text


def test_equal_calls_give_equal_text_and_seeds_differ(model):
    first, second = (model.generate(PROMPT, max_tokens=40, seed=3) for _ in range(2))
    assert first.tokens == second.tokens and first.state.hash() == second.state.hash()
    assert model.generate(PROMPT, max_tokens=40, seed=4).tokens != first.tokens
    assert model.generate(PROMPT.encode(), max_tokens=40, seed=3).tokens == first.tokens


def test_two_calls_are_one_long_call_also_over_a_file(model, tmp_path):
    whole = model.generate(PROMPT, max_tokens=60, seed=5)
    first = model.generate(PROMPT, max_tokens=25, seed=5)
    first.state.save(tmp_path / "state.safetensors")
    carried = model.generate(max_tokens=35, seed=5, state=first.state)
    loaded = model.generate(max_tokens=35, seed=5, state=model.new_state().load(tmp_path / "state.safetensors"))
    for second in (carried, loaded):
        assert first.tokens + second.tokens == whole.tokens
        assert second.state.hash() == whole.state.hash()


def test_a_fork_goes_its_own_way(model):
    state = model.generate(PROMPT, max_tokens=5).state
    before, fork = state.hash(), state.fork()
    assert fork.hash() == before and fork.tokens == state.tokens
    model.generate("something else", max_tokens=5, state=fork)
    assert state.hash() == before and fork.hash() != before


def test_the_given_state_learns_or_stays_as_access_says(model):
    state = model.generate(PROMPT, max_tokens=5, seed=1).state
    before = state.hash()
    read = model.generate("more", max_tokens=10, seed=1, state=state, access="read")
    assert state.hash() == before and read.state is state
    learned = model.generate("more", max_tokens=10, seed=1, state=state)
    assert learned.tokens == read.tokens
    assert state.hash() != before and learned.state is state


def test_frozen_memories_leave_another_state(model):
    learned = model.generate(PROMPT, max_tokens=20, seed=1)
    frozen = model.generate(PROMPT, max_tokens=20, seed=1, access="frozen")
    assert learned.state.hash() != frozen.state.hash()


def test_no_tokens_only_read_the_prompt(model):
    result = model.generate(PROMPT, max_tokens=0)
    assert result.text == "" and result.tokens == []
    first = model.generate(max_tokens=10, seed=2, state=result.state)
    assert first.tokens == model.generate(PROMPT, max_tokens=10, seed=2).tokens


def test_generation_ends_behind_a_stop_text(model):
    free = model.generate(PROMPT, max_tokens=50, seed=7)
    stop = free.bytes[10:12]
    end = free.bytes.find(stop) + 2
    for form in (stop, [b"\xff\xfe\xfd", stop]):
        result = model.generate(PROMPT, max_tokens=50, seed=7, stop=form)
        assert result.bytes == free.bytes[:end] and result.stopped == "stop"


def test_temperature_zero_takes_the_likeliest_as_does_top_k_of_one(model):
    coldest = model.generate(PROMPT, max_tokens=30, temperature=0.0, seed=1)
    assert model.generate(PROMPT, max_tokens=30, top_k=1, seed=2).tokens == coldest.tokens
    assert model.generate(PROMPT, max_tokens=30, top_p=1e-9, seed=3).tokens == coldest.tokens


def test_the_config_is_the_file(model, model_folder):
    on_disk = json.loads((model_folder / "config.json").read_text())
    assert model.config == on_disk
    assert str(on_disk["vocab"]) in repr(model)


BAD = {
    "negative max_tokens": (dict(max_tokens=-1), ValueError, "max_tokens is -1"),
    "fractional top_k": (dict(top_k=1.5), ValueError, "top_k is 1.5"),
    "negative seed": (dict(seed=-7), ValueError, "seed is -7"),
    "negative temperature": (dict(temperature=-1.0), ValueError, "temperature", "-1"),
    "no temperature": (dict(temperature=float("nan")), ValueError, "temperature", "NaN"),
    "top_p of 0": (dict(top_p=0.0), ValueError, "top_p", "(0, 1]"),
    "empty stop": (dict(stop=""), ValueError, "stop", "empty"),
    "stop of a wrong type": (dict(stop=7), TypeError, "stop", "int"),
    "prompt of a wrong type": (dict(prompt=[1, 2]), TypeError, "prompt", "list"),
    "unknown access": (dict(access="write"), ValueError, "`write`", "learn, read, frozen"),
    "state of a wrong type": (dict(state="file"), TypeError, "state"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD.keys())
def test_generate_refuses(model, case):
    arguments, exception, *parts = case
    with pytest.raises(exception) as caught:
        model.generate(**arguments)
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_a_missing_model_or_state_names_its_path(model, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        hecate.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="config.json"):
        hecate.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        model.new_state().load(tmp_path / "none.safetensors")
    with pytest.raises(OSError, match="no-folder"):
        model.new_state().save(tmp_path / "no-folder" / "state.safetensors")


def test_a_truncated_model_is_refused(model_folder, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in model_folder.iterdir():
        if file.is_file():
            shutil.copy(file, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError):
        hecate.load(copy)


def test_a_refused_state_file_leaves_the_state_alone(model, tmp_path):
    state = model.generate(PROMPT, max_tokens=5).state
    before, file = state.hash(), tmp_path / "state.safetensors"
    state.save(file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError):
        state.load(file)
    assert state.hash() == before


def test_the_interpreter_is_released_and_a_state_in_use_is_refused(model):
    state = model.new_state()
    thread = threading.Thread(target=model.generate, kwargs=dict(max_tokens=20_000, state=state))
    thread.start()
    refused = False
    while thread.is_alive() and not refused:
        try:
            model.generate(max_tokens=0, state=state)
        except RuntimeError as error:
            refused = "fork()" in str(error)
    thread.join()
    assert refused
    assert model.generate(max_tokens=1, state=state).state is state


@pytest.fixture
def interruptible():
    """A shell that starts the tests in the background lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_the_call_and_leaves_the_state_alone(model, interruptible):
    state = model.generate(PROMPT, max_tokens=5).state
    before = state.hash()
    timer = threading.Timer(0.2, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        model.generate(max_tokens=10_000_000, state=state)
    assert state.hash() == before
