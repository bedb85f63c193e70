"""The noise is a function of content, timestep and draw, as the format promises."""

from __future__ import annotations

import hashlib

import torch
from diffusers import DDIMScheduler

from pipeline.networks.noise import add_noise, draw_noise, noise_seed

SHA = hashlib.sha256(b"an image").hexdigest()


def test_the_seed_is_the_pinned_function_of_its_inputs() -> None:
    # Computed with `printf '0:%s:195:0' SHA | sha256sum`, first 16 hex digits, shifted right.
    digest = hashlib.sha256(f"0:{SHA}:195:0".encode()).hexdigest()
    assert noise_seed(0, SHA, 195, 0) == int(digest[:16], 16) // 2
    assert 0 <= noise_seed(0, SHA, 195, 0) < 2**63


def test_every_input_changes_the_noise_and_nothing_else_does() -> None:
    base = draw_noise((4, 5, 5), 0, SHA, 195, 0)
    torch.randn(100)
    assert torch.equal(base, draw_noise((4, 5, 5), 0, SHA, 195, 0))
    other_sha = hashlib.sha256(b"another").hexdigest()
    for other in ((1, SHA, 195, 0), (0, other_sha, 195, 0), (0, SHA, 196, 0), (0, SHA, 195, 1)):
        assert not torch.allclose(base, draw_noise((4, 5, 5), *other), atol=0.1)


def test_noising_equals_the_schedulers_own() -> None:
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    z0, noise = torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)
    for timestep in (0, 195, 999):
        theirs = scheduler.add_noise(z0, noise, torch.tensor([timestep, timestep]))
        ours = add_noise(z0, noise, scheduler.alphas_cumprod[timestep])
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
