"""stable-baselines3's own DQN and TD3 learn the same with our target networks put into them."""

import pytest
import torch

from polyak import EMA, Averager, HardCopy

pytestmark = [
    pytest.mark.oracle,
    # What the environments and the package's plotting say of themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]

STEPS = 400


def recorded(algorithm):
    """The algorithm, keeping the losses of each of its gradient steps."""

    class Recorded(algorithm):
        def train(self, *args, **settings):
            super().train(*args, **settings)
            values = self.logger.name_to_value
            self.losses.append({k: v for k, v in values.items() if k.endswith("loss")})

    return Recorded


def follow(monkeypatch, module, averagers):
    """Let the package's `polyak_update` be an update of ours."""

    def updated(parameters, targets, tau):
        first = next(iter(parameters), None)
        for averager in averagers:
            if first is next(averager.model.parameters()):
                averager.update()

    monkeypatch.setattr(module, "polyak_update", updated)


def learnt(algorithm, environment, **settings):
    torch.manual_seed(0)
    model = recorded(algorithm)(
        "MlpPolicy",
        environment,
        learning_starts=50,
        batch_size=32,
        policy_kwargs={"net_arch": [16]},
        seed=0,
        **settings,
    )
    model.losses = []
    return model


@pytest.mark.parametrize("tau", [1.0, 0.05])
def test_dqn(monkeypatch, tau):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import DQN
    from stable_baselines3.dqn import dqn

    settings = {"train_freq": 1, "target_update_interval": 20, "tau": tau}
    theirs = learnt(DQN, "CartPole-v1", **settings).learn(STEPS)
    ours = learnt(DQN, "CartPole-v1", **settings)
    kind = HardCopy(1) if tau == 1.0 else EMA.tau(tau)
    averager = Averager(ours.q_net, kind)
    ours.q_net_target = ours.policy.q_net_target = averager.live()
    follow(monkeypatch, dqn, [averager])
    ours.learn(STEPS)
    assert averager.updates == STEPS // 20
    assert len(ours.losses) == len(theirs.losses) > STEPS // 2
    for got, want in zip(ours.losses, theirs.losses, strict=True):
        if tau == 1.0:
            assert got == want
        else:  # theirs is m·(1 − τ) + τ·x, which rounds otherwise
            assert got == pytest.approx(want, rel=1e-3, abs=1e-6)


def test_td3(monkeypatch):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import TD3
    from stable_baselines3.td3 import td3

    theirs = learnt(TD3, "Pendulum-v1", tau=0.005).learn(STEPS)
    ours = learnt(TD3, "Pendulum-v1", tau=0.005)
    averagers = {
        name: Averager(getattr(ours, name), EMA.tau(0.005)) for name in ("actor", "critic")
    }
    for name, averager in averagers.items():
        live = averager.live()
        setattr(ours, f"{name}_target", live)
        setattr(ours.policy, f"{name}_target", live)
    follow(monkeypatch, td3, list(averagers.values()))
    ours.learn(STEPS)
    assert all(averager.updates > STEPS // 4 for averager in averagers.values())
    assert len(ours.losses) == len(theirs.losses) > STEPS // 2
    for got, want in zip(ours.losses, theirs.losses, strict=True):
        assert got == pytest.approx(want, rel=1e-3, abs=1e-5)
