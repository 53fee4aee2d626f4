"""The schedulers' names, in requests, in diffusers and in AUTOMATIC1111, and what is known of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from converter.errors import AnemoneError
from server.pipeline.schedulers.ddim import DDIM
from server.pipeline.schedulers.ddpm import DDPM
from server.pipeline.schedulers.deis import DEIS
from server.pipeline.schedulers.dpm_sde import DPMSolverSDE
from server.pipeline.schedulers.dpm_solver import DPMSolverMultistep, DPMSolverSinglestep
from server.pipeline.schedulers.euler import Euler, EulerAncestral
from server.pipeline.schedulers.heun import Heun
from server.pipeline.schedulers.ipndm import IPNDM
from server.pipeline.schedulers.kdpm2 import KDPM2, KDPM2Ancestral
from server.pipeline.schedulers.lcm import LCM
from server.pipeline.schedulers.lms import LMS
from server.pipeline.schedulers.pndm import PNDM
from server.pipeline.schedulers.sa_solver import SASolver
from server.pipeline.schedulers.schedule import NoiseSchedule, Scheduler
from server.pipeline.schedulers.sigma_schedules import AUTOMATIC, SIGMA_SCHEDULES, Sigmas, SigmaSchedule
from server.pipeline.schedulers.tcd import TCD
from server.pipeline.schedulers.unipc import UniPC


class UnknownScheduler(AnemoneError):
    """No scheduler, or no sigma schedule, has this name."""


#: Makes a scheduler that visits chosen noise levels; and one whose levels are its own.
_BySigmas: TypeAlias = Callable[[NoiseSchedule, int, Sigmas | None], Scheduler]
_ByTimesteps: TypeAlias = Callable[[NoiseSchedule, int], Scheduler]
_V, _SAMPLE = "v_prediction", "sample"


@dataclass(frozen=True)
class SchedulerSpec:
    """A scheduler's name in requests, in AUTOMATIC1111 (``title``; ours where it has none) and in diffusers (``diffusers``).

    by_sigmas, by_timesteps: makes it; one of them. The sigma schedules apply to the former.
    stochastic: whether its steps draw noise.
    a1111_sigmas: the sigma schedule of A1111's schedule type Automatic (sd_samplers_kdiffusion.py); automatic for the
        samplers that it has not, or to which its schedule types do not apply.
    from_pure_noise: the prediction types with which it can start where no signal is left (zero terminal SNR). "epsilon"
        never is one: the whole input is noise there, and the UNet's error in predicting it is multiplied by 4096 in the
        image. Heun's and PNDM's methods begin by averaging the first two slopes, whose difference then counts over the
        whole way from sigma 4096: with 20 steps, an image's brightness becomes 20 times too strong. Averaging two
        velocities (PNDM, if the model predicts them) does not have this effect.
    """

    name: str
    title: str
    diffusers: str
    aliases: tuple[str, ...] = ()
    by_sigmas: _BySigmas | None = None
    by_timesteps: _ByTimesteps | None = None
    stochastic: bool = False
    a1111_sigmas: str = AUTOMATIC.name
    from_pure_noise: tuple[str, ...] = (_V, _SAMPLE)

    @property
    def sigma_schedules(self) -> tuple[str, ...]:
        """The names of the sigma schedules that apply."""
        return (AUTOMATIC.name,) if self.by_sigmas is None else tuple(SIGMA_SCHEDULES)

    def make(self, schedule: NoiseSchedule, steps: int, sigmas: str = AUTOMATIC.name) -> Scheduler:
        """Return a scheduler for a run of so many steps, with a sigma schedule that applies to it."""
        schedule = schedule.spaced_for(self.diffusers)
        if self.by_sigmas is not None:
            return self.by_sigmas(schedule, steps, SIGMA_SCHEDULES[sigmas].sigmas)
        assert self.by_timesteps is not None
        return self.by_timesteps(schedule, steps)

    def enough_timesteps(self, schedule: NoiseSchedule, steps: int, sigmas: str = AUTOMATIC.name) -> bool:
        """Return whether the schedule has a separate timestep for every step, and for the end, which DPM++ counts as one."""
        count = schedule.num_train_timesteps
        return steps < count and self.make(schedule, steps, sigmas).timesteps[0] < count


def _multistep(**settings: object) -> _BySigmas:
    return partial(DPMSolverMultistep, **settings)  # type: ignore[arg-type]


SCHEDULERS: dict[str, SchedulerSpec] = {
    s.name: s
    for s in (
        SchedulerSpec("euler", "Euler", "EulerDiscreteScheduler", ("k_euler",), Euler, a1111_sigmas="uniform"),
        SchedulerSpec(
            "euler_a",
            "Euler a",
            "EulerAncestralDiscreteScheduler",
            ("k_euler_a", "euler_ancestral", "k_euler_ancestral"),
            EulerAncestral,
            stochastic=True,
            a1111_sigmas="uniform",
        ),
        SchedulerSpec(
            "dpm++_2m",
            "DPM++ 2M",
            "DPMSolverMultistepScheduler",
            ("dpmsolver++",),
            DPMSolverMultistep,
            a1111_sigmas="karras",
        ),
        SchedulerSpec(
            "dpm++_2m_sde",
            "DPM++ 2M SDE",
            "DPMSolverMultistepScheduler",
            (),
            _multistep(kind="sde"),
            stochastic=True,
            a1111_sigmas="exponential",
        ),
        SchedulerSpec(
            "dpm++_2m_sde_heun",
            "DPM++ 2M SDE Heun",
            "DPMSolverMultistepScheduler",
            (),
            _multistep(kind="sde", heun=True),
            stochastic=True,
            a1111_sigmas="exponential",
        ),
        SchedulerSpec("dpm++_3m", "DPM++ 3M", "DPMSolverMultistepScheduler", (), _multistep(order=3)),
        SchedulerSpec(
            "dpm++_3m_sde",
            "DPM++ 3M SDE",
            "DPMSolverMultistepScheduler",
            (),
            _multistep(kind="sde", order=3),
            stochastic=True,
            a1111_sigmas="exponential",
        ),
        SchedulerSpec("dpm_2m", "DPM 2M", "DPMSolverMultistepScheduler", ("dpmsolver",), _multistep(kind="noise")),
        SchedulerSpec("dpm++_2s", "DPM++ 2S", "DPMSolverSinglestepScheduler", (), DPMSolverSinglestep),
        SchedulerSpec(
            "dpm++_2s_sde",
            "DPM++ 2S SDE",
            "DPMSolverSinglestepScheduler",
            (),
            partial(DPMSolverSinglestep, kind="sde"),
            stochastic=True,
        ),
        SchedulerSpec(
            "dpm++_sde", "DPM++ SDE", "DPMSolverSDEScheduler", (), DPMSolverSDE, stochastic=True, a1111_sigmas="karras"
        ),
        SchedulerSpec(
            "dpm2", "DPM2", "KDPM2DiscreteScheduler", ("k_dpm_2",), KDPM2, from_pure_noise=(), a1111_sigmas="karras"
        ),
        SchedulerSpec(
            "dpm2_a",
            "DPM2 a",
            "KDPM2AncestralDiscreteScheduler",
            ("k_dpm_2_a", "k_dpm_2_ancestral"),
            KDPM2Ancestral,
            stochastic=True,
            from_pure_noise=(),
            a1111_sigmas="karras",
        ),
        SchedulerSpec(
            "heun", "Heun", "HeunDiscreteScheduler", ("k_heun",), Heun, from_pure_noise=(), a1111_sigmas="uniform"
        ),
        SchedulerSpec("lms", "LMS", "LMSDiscreteScheduler", ("k_lms",), LMS, a1111_sigmas="uniform"),
        SchedulerSpec("unipc", "UniPC", "UniPCMultistepScheduler", (), UniPC),
        SchedulerSpec("deis", "DEIS", "DEISMultistepScheduler", (), DEIS),
        SchedulerSpec("sa_solver", "SA-Solver", "SASolverScheduler", (), SASolver, stochastic=True),
        SchedulerSpec("ipndm", "IPNDM", "IPNDMScheduler", (), IPNDM),
        SchedulerSpec("ddim", "DDIM", "DDIMScheduler", ("ddim_parallel", "DDIMParallelScheduler"), None, DDIM),
        SchedulerSpec(
            "ddpm",
            "DDPM",
            "DDPMScheduler",
            ("ddpm_parallel", "DDPMParallelScheduler"),
            None,
            DDPM,
            stochastic=True,
        ),
        SchedulerSpec("pndm", "PLMS", "PNDMScheduler", ("plms",), None, PNDM, from_pure_noise=(_V,)),
        SchedulerSpec("lcm", "LCM", "LCMScheduler", (), None, LCM, stochastic=True),
        SchedulerSpec("tcd", "TCD", "TCDScheduler", (), None, TCD, stochastic=True),
    )
}


def _plain(name: str) -> str:
    """Return a name as it is compared: without case, spaces, ``_`` and ``-``, and "pp" (k-diffusion's functions) as "++"."""
    plain = "".join(c for c in name.lower() if c not in " _-")
    return plain.replace("dpmpp", "dpm++")


def _by_alias() -> dict[str, tuple[SchedulerSpec, SigmaSchedule]]:
    """Return schedulers and sigma schedules by every name; joined ones as in A1111 before 1.9 ("DPM++ 2M Karras").

    A name that diffusers' class or another scheduler has counts for the first in the list.
    """
    found: dict[str, tuple[SchedulerSpec, SigmaSchedule]] = {}
    for s in SCHEDULERS.values():
        names = (s.name, s.title, s.diffusers, s.diffusers.removesuffix("Scheduler"), *s.aliases)
        names += tuple(f"k_{n}" for n in (s.name, s.title))
        for name in names:
            for sigmas in map(SIGMA_SCHEDULES.__getitem__, s.sigma_schedules):
                for end in (sigmas.name, sigmas.title, *sigmas.aliases):
                    found.setdefault(_plain(f"{name} {end}"), (s, sigmas))
            found.setdefault(_plain(name), (s, AUTOMATIC))
    return found


_BY_ALIAS = _by_alias()
_SIGMAS_BY_ALIAS = {_plain(a): s for s in SIGMA_SCHEDULES.values() for a in (s.name, s.title, *s.aliases)}


def find_scheduler(name: str) -> tuple[SchedulerSpec, SigmaSchedule]:
    """Return the scheduler of a name or alias, and the sigma schedule that the name ends in, automatic if in none.

    Case, spaces, ``_`` and ``-`` do not matter. Raises UnknownScheduler, which lists the names.
    """
    found = _BY_ALIAS.get(_plain(name))
    if found is None:
        raise UnknownScheduler(f"scheduler is {name!r}; accepted: {', '.join(SCHEDULERS)}")
    return found


def find_sigmas(name: str) -> SigmaSchedule:
    """Return the sigma schedule of a name or alias, as `find_scheduler` does."""
    found = _SIGMAS_BY_ALIAS.get(_plain(name))
    if found is None:
        raise UnknownScheduler(f"sigmas is {name!r}; accepted: {', '.join(SIGMA_SCHEDULES)}")
    return found


def usable_schedulers(schedule: NoiseSchedule, steps: int, sigmas: str = AUTOMATIC.name) -> list[str]:
    """Return the names of the schedulers that can start at the first of so many steps of this schedule."""
    return [
        s.name
        for s in SCHEDULERS.values()
        if sigmas in s.sigma_schedules
        and (
            schedule.prediction_type in s.from_pure_noise
            or not schedule.pure_noise_at(s.make(schedule, steps, sigmas).timesteps[0])
        )
    ]
