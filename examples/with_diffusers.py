"""diffusers: a small U-Net learns to draw digits, and its average is the model that is published.

Diffusion models are sampled from an average, since the loss is noisy at every step. The warm-up is
that of diffusers' `EMAModel`; the average is saved in a pipeline, loaded again, and draws.

    pip install diffusers
    python examples/with_diffusers.py
"""

import tempfile

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from sklearn.datasets import load_digits

import polyak

STEPS, BATCH = 150, 32


def noise_loss(model, scheduler, images: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the noise that the model finds in noised images."""
    noise = torch.randn_like(images)
    times = torch.randint(scheduler.config.num_train_timesteps, (len(images),))
    noised = scheduler.add_noise(images, noise, times)
    return torch.nn.functional.mse_loss(model(noised, times).sample, noise)


def main() -> dict[str, float]:
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images[:, None] / 8 - 1, dtype=torch.float32)
    train, held_out = images[:1500], images[1500:]
    model = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8,
        block_out_channels=(16, 32), down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=50, beta_end=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    averager = polyak.Averager(model, polyak.EMA(0.95, "diffusers", name="ema"))
    averager.attach(optimizer)
    for _ in range(STEPS):
        batch = train[torch.randint(len(train), (BATCH,))]
        optimizer.zero_grad()
        noise_loss(model, scheduler, batch).backward()
        optimizer.step()

    def held_out_loss() -> float:
        torch.manual_seed(1)  # the same noise for both
        with torch.no_grad():
            return sum(noise_loss(model, scheduler, held_out).item() for _ in range(8)) / 8

    found = {"weights": held_out_loss()}
    with averager.applied():
        found["average"] = held_out_loss()
    for name, loss in found.items():
        print(f"{name:8} {loss:.4f} mean squared error of the noise, held-out digits")

    with tempfile.TemporaryDirectory() as folder:
        DDPMPipeline(averager.module(), scheduler).save_pretrained(folder)
        pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(batch_size=1, num_inference_steps=50, output_type="numpy").images[0, :, :, 0]
    print("\n".join("".join(" .:*#"[min(4, int(5 * v))] for v in row) for row in drawn))
    return found


if __name__ == "__main__":
    main()
