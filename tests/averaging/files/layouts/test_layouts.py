"""Averages where other tools keep them, in checkpoints imitated from the tools' sources.

Every test says what its checkpoint is imitated from; no tool is run.
"""

import argparse
import collections

import pytest
import torch
from support.small_networks import assert_same_bits, drift, net
from torch import nn
from torch.optim.swa_utils import AveragedModel

import polyak
from polyak import Averager
from polyak.averaging.files.foreign import read_foreign
from polyak.errors import FileError

State = dict[str, torch.Tensor]


def states(seed: int = 1) -> tuple[State, State]:
    """The average and the raw weights of one network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = net()
    raw = {key: x.clone() for key, x in model.state_dict().items()}
    drift(model, seed)
    return {key: x.clone() for key, x in model.state_dict().items()}, raw


AVERAGE, RAW = states()
PARAMETERS = [name for name, _ in net().named_parameters()]


def parameters(state: State) -> State:
    return {name: state[name] for name in PARAMETERS}


def with_prefix(prefix: str, state: State) -> State:
    return {prefix + key: x for key, x in state.items()}


def optimizer() -> dict:
    model = net()
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).sum().backward()
    adam.step()
    return adam.state_dict()


def lightning(**more) -> dict:
    monitor = {"monitor": "loss", "best_model_score": torch.tensor(0.3), "last": "x.ckpt"}
    return {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.5.0",
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": monitor},
        "optimizer_states": [optimizer()],
        "lr_schedulers": [],
        **more,
    }


@pytest.fixture
def read(tmp_path):
    def read(content, model=None):
        torch.save(content, tmp_path / "checkpoint.pt")
        return read_foreign(tmp_path / "checkpoint.pt", model)

    return read


def told(found) -> dict[str, str]:
    return found.manifest["weights"]


def left_out(found) -> set[str]:
    return {entry["path"] for entry in found.manifest["left_out"]}


def assert_pair(found, average: State = AVERAGE, raw: State = RAW) -> None:
    """The average is called so and is the average, and so are the raw weights."""
    assert (told(found)["average"], told(found)["raw"]) == ("averaged", "raw")
    assert_same_bits(found["average"], average)
    assert_same_bits(found["raw"], raw)


# mmengine, mmcv


def mmengine() -> dict:
    return {
        "meta": {"cfg": "model = dict()", "iter": 10, "epoch": 1, "seed": 0},
        "state_dict": AVERAGE,
        "message_hub": {
            "log_scalars": collections.OrderedDict(loss=argparse.Namespace(history=[1.0])),
            "runtime_info": collections.OrderedDict(iter=9),
        },
        "ema_state_dict": {"steps": torch.tensor(10), **with_prefix("module.", RAW)},
        "optimizer": optimizer(),
        "param_schedulers": [{"last_step": 3}],
    }


def test_mmengine_saves_the_average_where_weights_are_expected(read):
    """EMAHook.before_save_checkpoint exchanges the values (mmengine 02f1880, hooks/ema_hook.py);
    `steps` is the buffer of model/averaged_model.py (1168850)."""
    found = read(mmengine())
    assert_pair(found)
    assert found.manifest["tool"] == "mmengine EMAHook"
    assert (found.manifest["updates"], found.manifest["steps"]) == (10, 10)
    assert left_out(found) == {"meta", "message_hub", "optimizer", "param_schedulers"}


def test_what_mmengine_exchanged_can_be_adopted(read):
    model = net()
    averager = Averager(model, [0.9])
    averager.adopt({"ema_0.9": read(mmengine())["average"]}, steps=10)
    assert torch.equal(averager.tensors("ema_0.9")["0.weight"], AVERAGE["0.weight"])


@pytest.mark.parametrize("without", ["meta", "message_hub", "optimizer"])
def test_mmengine_is_known_without_what_may_be_missing(read, without):
    content = mmengine()
    del content[without]
    assert_pair(read(content))


def test_a_state_called_ema_of_another_tool_is_not_taken_for_mmengines(read):
    content = {"state_dict": RAW, "ema_state_dict": AVERAGE, "epoch": 3}
    found = read(content)
    assert told(found) == {"state_dict": "unknown", "ema_state_dict": "averaged, by its name"}


def mmcv(runner: str | None) -> dict:
    buffers = {f"ema_backbone_{k.replace('.', '_')}": x for k, x in parameters(RAW).items()}
    meta = {"epoch": 12, "iter": 100, "mmcv_version": "1.7.1"}
    if runner:
        meta["config"] = f"optimizer = dict(type='SGD')\nrunner = dict(type='{runner}')\n"
    return {"meta": meta, "state_dict": {**with_prefix("backbone.", AVERAGE), **buffers}}


def test_mmcv_exchanges_at_the_end_of_an_epoch(read):
    """EMAHook of mmcv 1.x (0928330, runner/hooks/ema.py): `after_train_epoch` swaps, then the
    checkpoint is saved; the buffers hold the raw weights."""
    found = read(mmcv("EpochBasedRunner"), net())
    average, raw = found["state_dict.average"], found["state_dict.raw"]
    assert told(found) == {"state_dict.average": "averaged", "state_dict.raw": "raw"}
    assert_same_bits(average, AVERAGE)
    assert_same_bits(raw, parameters(RAW))


def test_mmcv_does_not_exchange_in_runs_by_iterations(read):
    """IterBasedRunner calls no hooks of epochs but at the ends of the run."""
    found = read(mmcv("IterBasedRunner"))
    assert told(found) == {"state_dict.average": "averaged", "state_dict.raw": "raw"}
    assert_same_bits(found["state_dict.average"], with_prefix("backbone.", parameters(RAW)))


def test_mmcv_is_separated_but_not_guessed_at_where_the_runner_is_not_stored(read):
    found = read(mmcv(None))
    assert told(found) == {"state_dict.ema": "unknown", "state_dict.weights": "unknown"}
    assert_same_bits(found["state_dict.ema"], with_prefix("backbone.", parameters(RAW)))
    assert_same_bits(found["state_dict.weights"], with_prefix("backbone.", AVERAGE))


# Trainers with files of their own


def test_rt_detr(read):
    """ModelEMA.state_dict (RT-DETR 3330eca, src/optim/ema.py) in the solver's file (1598744); that
    of D-FINE (2562e29, src/solver/_solver.py) saves the criterion too, and DEIM likewise."""
    content = {
        "date": "2026-01-01",
        "last_epoch": 3,
        "model": RAW,
        "criterion": {"empty_weight": torch.ones(80)},
        "optimizer": optimizer(),
        "lr_scheduler": {"last_epoch": 3},
        "ema": {"module": AVERAGE, "updates": 500, "warmups": 2000},
    }
    found = read(content)
    assert_pair(found)
    assert found.manifest["tool"] == "RT-DETR"
    assert (found.manifest["updates"], found.manifest["epoch"]) == (500, 3)
    assert found.manifest["averages"]["average"]["warmups"] == 2000
    assert left_out(found) == {"date", "criterion", "optimizer", "lr_scheduler"}


@pytest.mark.parametrize("float32", [False, True])
def test_fairseq(read, float32):
    """Trainer.state_dict: the average is in `extra_state` (fairseq 1b61bba, models/ema/ema.py)."""
    extra = {"metrics": {}, "previous_training_time": 3.0, "ema": AVERAGE}
    if float32:
        extra["ema_fp32_params"] = {k: x.float() for k, x in AVERAGE.items()}
    content = {
        "args": None,
        "cfg": {"ema": {"store_ema": True}},
        "model": RAW,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "X", "num_updates": 77}],
        "task_state": {},
        "extra_state": {**extra, "train_iterator": {"epoch": 2}},
        "last_optimizer_state": optimizer(),
    }
    found = read(content)
    assert_pair(found)
    assert (found.manifest["updates"], found.manifest["epoch"]) == (77, 2)
    if float32:
        assert told(found)["extra_state.ema_fp32_params"] == "averaged"


def test_audiocraft(read):
    """ModuleDictEMA.state_dict, a defaultdict of modules (audiocraft bf70522, optim/ema.py), in the
    solver's file (solvers/base.py)."""
    floating = {k: x for k, x in AVERAGE.items() if x.is_floating_point()}
    content = {
        "history": [{"train": {"loss": 1.0}}],
        "xp.sig": "abcd",
        "model": RAW,
        "optimizer": optimizer(),
        "best_state": {"model": {k: x + 1 for k, x in RAW.items()}},
        "ema": {"state": collections.defaultdict(dict, {"model": floating}), "count": 9.5},
    }
    found = read(content)
    assert_pair(found, average=floating)
    assert told(found)["best_state.model"] == "unknown"
    assert left_out(found) == {"history", "xp.sig", "optimizer", "ema.count"}


def composer(*, active: bool) -> dict:
    ema = {
        "repr": "EMA()",
        "ema_model": AVERAGE,
        "training_model": RAW,
        "ema_weights_active": active,
        "ema_started": True,
    }
    return {
        "state": {
            "model": AVERAGE if active else RAW,
            "optimizers": {"Adam": optimizer()},
            "algorithms": [("LabelSmoothing", {"repr": "LabelSmoothing()"}), ("EMA", ema)],
            "train_metrics": {"Accuracy": {"state_dict": {"correct": torch.ones(3)}}},
            "timestamp": {"Timestamp": {"batch": 3}},
        },
        "rng": [{"torch": torch.get_rng_state()}],
    }


def test_composer_holds_the_average_in_the_network_while_it_saves(read):
    """The algorithm EMA (composer 012538e, algorithms/ema/ema.py); algorithms are a list of pairs
    (008dac7, core/state.py)."""
    found = read(composer(active=True))
    assert_pair(found)
    assert told(found)["state.model"] == "averaged"
    assert {"state.optimizers", "rng", "state.timestamp"} <= left_out(found)


def test_composer_without_exchanged_weights(read):
    found = read(composer(active=False))
    assert_pair(found)
    assert told(found)["state.algorithms.EMA.training_model"] == "unknown"


def test_ddim(read):
    """The list that ddim and its kin save: model, optimizer, epoch, step, EMAHelper's shadow."""
    found = read([RAW, optimizer(), 3, 70, AVERAGE])
    assert_pair(found)
    assert (found.manifest["epoch"], found.manifest["steps"]) == (3, 70)


@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("ema_state", {"trainer": {"iteration": 3}}),  # detectron2 with d2go 1c9e0e8
        ("model_ema", {"ema_sched": {"num_updates": 3}}),  # k-diffusion
        ("ema_net", {"acc": 0.5}),  # super-gradients
        ("ema_model", {}),  # ignite's handler, under the name that its examples use
        ("state_dict_ema", {}),
    ],
)
def test_an_average_under_a_name_that_says_so(read, key, more):
    found = read({"model": RAW, key: AVERAGE, **more})
    assert told(found) == {"model": "unknown", key: "averaged, by its name"}


def test_yolox_does_not_say_which_weights_it_saved(read):
    assert told(read({"start_epoch": 3, "model": AVERAGE, "optimizer": {}})) == {"model": "unknown"}


# Lightning and what lies in its state dicts


def lit_ema(state: State, prefix: str = "model_ema.") -> State:
    return {
        prefix + "decay": torch.tensor(0.9999),
        prefix + "num_updates": torch.tensor(7, dtype=torch.int),
        **{prefix + key.replace(".", ""): x for key, x in parameters(state).items()},
    }


def test_lit_ema_in_a_lightning_state(read):
    """LitEma (stable-diffusion 555f13e, ldm/modules/ema.py): buffers named without dots."""
    state = {**with_prefix("model.", RAW), "betas": torch.ones(3), **lit_ema(AVERAGE)}
    found = read(lightning(state_dict=state))
    assert found.manifest["tool"] == "Lightning 2.5.0 with LitEma"
    assert_pair(
        found,
        average=with_prefix("model.", parameters(AVERAGE)),
        raw={**with_prefix("model.", RAW), "betas": torch.ones(3)},
    )
    assert found.manifest["averages"]["average"]["decay"] == 0.9999
    assert (found.manifest["updates"], found.manifest["steps"]) == (7, 1000)


def test_lit_ema_for_a_model_has_the_models_names(read):
    state = {**with_prefix("model.", RAW), "betas": torch.ones(3), **lit_ema(AVERAGE)}
    found = read(lightning(state_dict=state), net())
    assert_pair(found, average=parameters(AVERAGE))
    assert "state_dict.betas" in left_out(found)


@pytest.mark.parametrize("model", [False, True])
def test_lit_ema_in_a_state_of_its_own(read, model):
    """Where nothing but the network has the names with dots."""
    content = {"ema": lit_ema(AVERAGE, "")}
    if not model:
        content["model"] = RAW
    found = read(content, net() if model else None)
    assert_same_bits(found["ema.average"], parameters(AVERAGE))


def test_names_that_are_written_alike_are_not_guessed_at(read):
    """Without dots, "ab.c" and "a.bc" are one name."""
    raw = {"ab.c": torch.ones(2), "a.bc": torch.zeros(2), "d.e": torch.ones(2)}
    average = {"abc": torch.ones(2), "de": torch.ones(2)}
    counters = {"decay": torch.tensor(0.9), "num_updates": torch.tensor(1)}
    found = read({**raw, **with_prefix("model_ema.", {**average, **counters})})
    assert found["average"].keys() == {"abc", "de"}


@pytest.mark.parametrize("wrapper", ["", "net.", "net._orig_mod."])
def test_an_averaged_model_in_a_lightning_module(read, wrapper):
    """torch's AveragedModel as an attribute beside the network (torch 2.13)."""
    averaged = AveragedModel(net()).state_dict()
    state = {**with_prefix(wrapper, RAW), **with_prefix("ema_model.", averaged)}
    state.update(with_prefix("ema_model.module.", AVERAGE))
    found = read(lightning(state_dict=state), net())
    assert_pair(found)
    assert found.manifest["tool"] == "Lightning 2.5.0 with torch AveragedModel"
    assert found.manifest["updates"] == 0


def test_ema_pytorch_in_a_lightning_module(read):
    """lucidrains' EMA (ema-pytorch 0.8.3), which registers the network a second time."""
    inner = {
        **with_prefix("ema_model.", AVERAGE),
        **with_prefix("online_model.", RAW),
        "initted": torch.tensor(True),
        "step": torch.tensor(40),
    }
    found = read(lightning(state_dict={**with_prefix("net.", RAW), **with_prefix("ema.", inner)}))
    assert told(found)["average"] == "averaged"
    assert_same_bits(found["average"], with_prefix("net.", AVERAGE))
    natures = sorted(told(found).values())
    assert natures == ["averaged", "raw", "raw"]


def test_two_averages_in_one_state(read):
    """A GAN: generator and discriminator have each an average."""
    other_average, other_raw = states(seed=5)
    state = {
        **with_prefix("g.", RAW),
        **with_prefix("d.", other_raw),
        "ema_g.n_averaged": torch.tensor(3),
        **with_prefix("ema_g.module.", AVERAGE),
        "ema_d.n_averaged": torch.tensor(3),
        **with_prefix("ema_d.module.", other_average),
    }
    found = read(lightning(state_dict=state))
    assert told(found) == {"ema_g": "averaged", "ema_d": "averaged", "raw": "raw"}
    assert_same_bits(found["ema_g"], with_prefix("g.", AVERAGE))
    assert_same_bits(found["ema_d"], with_prefix("d.", other_average))


@pytest.mark.parametrize("ordinary", [True, False])
@pytest.mark.parametrize("sequence", [tuple, list])
def test_nemo_keeps_the_average_with_the_optimizer(read, ordinary, sequence):
    """EMAOptimizer.state_dict of NeMo 1.x, common/callbacks/ema.py; its second file, -EMA.ckpt,
    has the average in the network too."""
    ema = {
        "opt": optimizer(),
        "ema": sequence(parameters(AVERAGE).values()),
        "current_step": 9,
        "decay": 0.999,
        "every_n_steps": 1,
    }
    content = lightning(state_dict=RAW if ordinary else AVERAGE, optimizer_states=[ema])
    found = read(content, net())
    assert_same_bits(found["average"], parameters(AVERAGE))
    assert told(found) == (
        {"average": "averaged", "raw": "raw"}
        if ordinary
        else {"average": "averaged", "weights": "averaged"}
    )
    assert found.manifest["tool"] == "Lightning 2.5.0 with NeMo"
    assert found.manifest["averages"]["average"]["decay"] == 0.999
    assert found.manifest["steps"] == 9
    assert read(content).manifest["names"] == "order"


def test_the_callback_of_early_nemo(read):
    """NeMo 0331ee1, common/callbacks/ema.py: the list has the order of state_dict()."""
    callback = {"ema_weights": list(AVERAGE.values()), "cur_step": 9}
    found = read(lightning(state_dict=RAW, callbacks={"EMA": callback}), net())
    assert_pair(found)


def test_an_average_in_a_callback(read):
    callback = {"ema_state_dict": AVERAGE, "decay": 0.99}
    found = read(lightning(state_dict=RAW, callbacks={"EMACallback": callback}))
    assert told(found)["callbacks.EMACallback.ema_state_dict"] == "averaged, by its name"
    assert told(found)["weights"] == "unknown"


def test_lightnings_averaging_that_has_not_begun_holds_raw_weights(read):
    callback = {"n_averaged": None, "average_model_state": None}
    content = lightning(state_dict=RAW, callbacks={"StochasticWeightAveraging": callback})
    assert told(read(content)) == {"raw": "raw"}


def test_a_models_own_names_are_found_inside_a_lightning_state(read):
    found = read(lightning(state_dict={**with_prefix("net.", RAW), "loss.w": torch.ones(2)}), net())
    assert_same_bits(found["weights"], RAW)
    assert "state_dict.loss.w" in left_out(found)


# Teachers


def test_dino(read):
    """main_dino.py (dino 04c0ad9): the student is wrapped, the teacher is not."""
    content = {
        "student": with_prefix("module.", RAW),
        "teacher": AVERAGE,
        "optimizer": optimizer(),
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "dino_loss": {"center": torch.ones(1, 9)},
        "fp16_scaler": {"scale": 2.0, "_growth_tracker": 3},
    }
    found = read(content)
    assert told(found) == {"student": "raw, by its name", "teacher": "averaged, by its name"}
    assert_same_bits(found["teacher"], AVERAGE)
    assert left_out(found) == {"optimizer", "args", "dino_loss", "fp16_scaler"}


def test_a_teacher_of_another_network_is_no_average(read):
    found = read({"student": RAW, "teacher": nn.Linear(9, 9).state_dict()})
    assert told(found) == {"student": "unknown", "teacher": "unknown"}


@pytest.mark.parametrize("model", [False, True])
def test_moco(read, model):
    """builder.py (moco 4397a04), saved by main_moco.py through DistributedDataParallel."""
    state = {
        **with_prefix("module.encoder_q.", RAW),
        **with_prefix("module.encoder_k.", AVERAGE),
        "module.queue": torch.ones(3, 4),
        "module.queue_ptr": torch.zeros(1, dtype=torch.long),
    }
    content = {"epoch": 3, "arch": "resnet50", "state_dict": state, "optimizer": optimizer()}
    found = read(content, net() if model else None)
    average, raw = found["state_dict.average"], found["state_dict.raw"]
    assert told(found)["state_dict.average"] == "averaged, by its name"
    assert told(found)["state_dict.raw"] == "raw, by its name"
    if model:
        assert_same_bits(average, AVERAGE)
        assert_same_bits(raw, RAW)
        assert {"state_dict.module.queue", "state_dict.module.queue_ptr"} <= left_out(found)
    else:
        assert average.keys() == with_prefix("encoder_q.", AVERAGE).keys()
        assert raw.keys() >= {"queue", "queue_ptr"}


@pytest.mark.parametrize(
    ("averaged", "raw"),
    [
        ("teacher", "student"),
        ("target_network", "online_network"),
        ("momentum_encoder", "base_encoder"),
        ("ema_encoder", "encoder"),
        ("encoder_ema", "encoder"),
        ("model_ema", "model"),
        ("module.model_ema.module", "module.model"),
        ("ema", "net"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_pairs_of_names_in_one_state(read, averaged, raw, first):
    pairs = [with_prefix(raw + ".", RAW), with_prefix(averaged + ".", AVERAGE)]
    found = read(
        {k: x for pair in (pairs if first else pairs[::-1]) for k, x in pair.items()}, net()
    )
    assert told(found) == {"average": "averaged, by its name", "raw": "raw, by its name"}
    assert_same_bits(found["average"], AVERAGE)
    assert_same_bits(found["raw"], RAW)


@pytest.mark.parametrize(
    "names",
    [
        ("fc_avg.w", "fc_max.w"),  # pooled twice, as in CBAM
        ("block.avg.w", "block.max.w", "head.w"),
        ("layer.ema.w", "layer.conv.w", "head.w", "stem.w"),  # attention of that name
        ("q1.w", "q2.w", "target_q1.w", "target_q2.w"),  # copied, not averaged, as far as one knows
        ("layer.0.attention.self.query.w", "layer.0.attention.self.key.w"),
        ("block.attn.w", "block.attn_avg.w", "block.w", "head.w"),
        ("block.pool_average.w", "block.pool.w", "head.w", "stem.w"),
    ],
)
def test_layers_that_only_sound_like_averages_stay_where_they_are(read, names):
    state = {name: torch.full((2,), float(i)) for i, name in enumerate(names)}
    found = read(state)
    assert told(found) == {"weights": "unknown"}
    assert_same_bits(found["weights"], state)


def test_a_state_that_is_known_to_be_an_average_is_not_taken_apart_by_words(read):
    """timm's average of a network that has such a pair itself."""
    average = {**with_prefix("encoder_q.", AVERAGE), **with_prefix("encoder_k.", RAW)}
    found = read({"state_dict": average, "state_dict_ema": average, "epoch": 3})
    assert told(found) == {"average": "averaged", "raw": "raw"}
    assert_same_bits(found["average"], average)


def test_a_model_that_has_both_in_itself_gets_its_whole_state(read):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder_q, self.encoder_k = net(), net()

    state = Pair().state_dict()
    assert_same_bits(read({"state_dict": state}, Pair())["state_dict"], dict(state))


# At any depth, beside anything


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_a_layout_is_known_at_any_depth(read, depth):
    content = {"model": RAW, "ema": {"module": AVERAGE, "updates": 5, "warmups": 1}}
    for i in range(depth):
        content = {f"level{i}": content, "note": "x"} if i % 2 else [content, None]
    found = read(content)
    assert sorted(told(found).values()) == ["averaged", "raw"]
    [average] = [name for name, nature in told(found).items() if nature == "averaged"]
    assert_same_bits(found[average], AVERAGE)
    assert found.manifest["updates"] == 5


def test_of_states_below_a_name_that_says_average_the_marked_one_is_meant(read):
    found = read({"ema": {"online_model": RAW, "ema_model": AVERAGE}})
    assert told(found) == {
        "ema.online_model": "raw, by its name",
        "ema.ema_model": "averaged, by its name",
    }
    found = read({"ema": {"weights": AVERAGE, "ema_weights": AVERAGE}})
    assert told(found)["ema.weights"] == "unknown"


def test_an_optimizers_state_is_no_weights_at_any_depth(read):
    found = read({"model": RAW, "trainer": {"optimizers": [{"adam": optimizer()}]}})
    assert list(found) == ["model"]
    [entry] = found.manifest["left_out"]
    assert (entry["path"], entry["kind"]) == ("trainer", "dict")
    assert "18 tensors" in entry["detail"]


@pytest.mark.parametrize(
    "content",
    [
        {"optimizer": {"exp_avg": RAW, "exp_avg_sq": RAW}},
        {"optim_state": {"avg": RAW}},
        {"momentum_buffer": RAW},
        {"loss_ema": {"mean": torch.ones(3)}},
        {"train_metrics": {"average": {"accuracy": torch.ones(3)}}},
        {"criterion": {"empty_weight": torch.ones(80)}},
        {"rng_states": {"w": torch.ones(3)}},
    ],
    ids=lambda content: next(iter(content)),
)
def test_what_only_sounds_like_an_average_or_like_weights_is_neither(read, content):
    found = read({"model": RAW, **content})
    assert list(found) == ["model"]
    [key] = content
    assert all(path.startswith(key) for path in left_out(found))


@pytest.mark.parametrize("key", ["best_metric_model", "loss_model", "momentum_encoder"])
def test_weights_whose_name_begins_with_such_a_word_are_weights(read, key):
    assert told(read({"model": RAW, key: AVERAGE}))[key] == "unknown"


def test_an_average_that_an_optimizer_keeps_is_one(read):
    found = read({"model": RAW, "optimizer": {"ema": AVERAGE, "base": optimizer()}})
    assert told(found)["optimizer.ema"] == "averaged, by its name"


def test_random_states_and_metrics_are_no_weights(read):
    rng = {"torch": torch.get_rng_state(), "cuda": torch.get_rng_state()}
    found = read({"model": RAW, "rng": rng, "best": {"loss": torch.tensor(0.3)}})
    assert list(found) == ["model"]
    assert left_out(found) == {"rng", "best"}


def test_loose_weights_beside_other_things_are_weights(read):
    found = read({**RAW, "epoch": 3, "optimizer": optimizer()})
    assert_same_bits(found["weights"], RAW)
    assert left_out(found) == {"epoch", "optimizer"}


def test_a_loose_tensor_is_listed(read):
    found = read({"model": RAW, "center": torch.ones(1, 9)})
    assert list(found) == ["model"]
    [entry] = found.manifest["left_out"]
    assert entry == {
        "path": "center",
        "kind": "tensor",
        "detail": "float32 (1, 9)",
        "why": "in no state dict",
    }


def test_a_sparse_buffer_is_listed_and_the_rest_is_read(read):
    found = read({"model": {**RAW, "adjacency": torch.eye(3).to_sparse()}})
    assert_same_bits(found["model"], RAW)
    [entry] = found.manifest["left_out"]
    assert (entry["path"], entry["why"]) == ("model.adjacency", "without dense values")


def test_extra_state_is_listed(read):
    found = read({"w": torch.ones(1), "norm._extra_state": {"scale": torch.ones(1)}})
    assert list(found["weights"]) == ["w"]
    assert left_out(found) == {"norm._extra_state"}


def test_two_states_that_are_one_object_are_both_there(read):
    found = read({"model": RAW, "best": RAW})
    assert_same_bits(found["model"], found["best"])


def test_a_list_of_pairs_is_read_as_a_dict(read):
    found = read({"model": list(RAW.items())})
    assert_same_bits(found["model"], RAW)


def test_a_content_that_holds_itself_ends(read):
    content = {"model": RAW}
    content["self"] = content
    content["list"] = [content]
    found = read(content)
    assert list(found) == ["model"]
    assert left_out(found) == {"self", "list"}


def test_a_content_nested_very_deep_ends(read):
    content = {"model": RAW}
    for _ in range(200):
        content = {"a": content}
    with pytest.raises(FileError, match="without weights"):
        read(content)
    assert list(read({"model": RAW, "deep": content})) == ["model"]


def test_a_content_that_unfolds_to_billions_of_parts_ends(read):
    content = [torch.ones(1)]
    for _ in range(40):
        content = [content, content]
    found = read({"model": RAW, "many": content})
    assert list(found) == ["model"]
    assert left_out(found) == {"many"}
    content = {"a": RAW}
    for _ in range(40):
        content = {"a": content, "b": content}
    assert 1 <= len(read(content)) < 1000


def test_what_was_left_out_goes_with_the_weights_into_a_file_of_ours(read, tmp_path):
    found = read({"model": RAW, "args": argparse.Namespace(lr=0.1)})
    polyak.save(found, tmp_path / "own")
    assert polyak.load(tmp_path / "own").manifest["left_out"] == found.manifest["left_out"]
