"""Deep Q-learning whose target network is the average of the Q-network, on a pole to be balanced.

The target of Q-learning is the network's own estimate, so it runs away when the network that is
trained gives it. DQN takes it from a network that follows slowly; here that is the average,
θ' ← θ' + τ·(θ − θ') with τ = 0.01, and nobody copies a network. 32 carts are simulated at once.

    python examples/dqn.py
"""

import torch
from torch import Tensor, nn

import polyak

CARTS, ROUNDS, BATCH, TAU, GAMMA, LIMIT = 32, 1_200, 128, 0.01, 0.98, 200


def moved(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """The next states (n, 4) of cart-poles (Barto, Sutton & Anderson 1983), and who fell."""
    x, v, angle, spin = state.unbind(1)
    force = 20.0 * action - 10.0
    push = (force + 0.05 * spin**2 * angle.sin()) / 1.1
    turn = (9.8 * angle.sin() - angle.cos() * push) / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
    shift = push - 0.05 * turn * angle.cos() / 1.1
    after = torch.stack(
        [x + 0.02 * v, v + 0.02 * shift, angle + 0.02 * spin, spin + 0.02 * turn], 1
    )
    return after, (after[:, 0].abs() > 2.4) | (after[:, 2].abs() > 0.21)


def started(n: int) -> Tensor:
    return 0.1 * torch.rand(n, 4) - 0.05


def balanced(q: nn.Module) -> float:
    """Steps that the pole stays up, mean of 64 carts that do what the network thinks best."""
    state, up, steps = started(64), torch.ones(64, dtype=torch.bool), torch.zeros(64)
    with torch.no_grad():
        for _ in range(LIMIT):
            state, fell = moved(state, q(state).argmax(1).float())
            up &= ~fell
            steps += up
    return steps.mean().item()


def main() -> dict[str, float]:
    torch.manual_seed(0)
    q = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(q.parameters(), lr=1e-3)
    averager = polyak.Averager(q, polyak.EMA.tau(TAU))
    averager.attach(optimizer)
    target = averager.live()  # a module that is the average, at any time

    before = balanced(q)
    state, age, memory = started(CARTS), torch.zeros(CARTS), []
    for turn in range(ROUNDS):
        with torch.no_grad():
            action = q(state).argmax(1)
        explore = torch.rand(CARTS) < max(0.05, 1 - turn / 400)
        action = torch.where(explore, torch.randint(2, (CARTS,)), action)
        after, fell = moved(state, action.float())
        memory.append((state, action, after, fell))
        age += 1
        over = fell | (age >= LIMIT)
        state = torch.where(over[:, None], started(CARTS), after)
        age[over] = 0

        past = torch.randint(len(memory), (BATCH // CARTS,)).tolist()
        s, a, s_after, end = (
            torch.cat(parts) for parts in zip(*(memory[i] for i in past), strict=True)
        )
        with torch.no_grad():
            worth = target(s_after).max(1).values
        wanted = 1.0 + GAMMA * worth * ~end
        loss = nn.functional.smooth_l1_loss(q(s).gather(1, a[:, None])[:, 0], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    found = {"untrained": before, "trained": balanced(q), "target network": balanced(target)}
    for name, steps in found.items():
        print(f"{name:15} keeps the pole up for {steps:.0f} of {LIMIT} steps")
    return found


if __name__ == "__main__":
    main()
