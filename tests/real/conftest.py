"""Fixtures of the real cases; a test that asks for one is skipped, with the reason, where the data is absent."""

from __future__ import annotations

import pytest
from cases import RealCase, load_deeplesion, load_ibsi, load_lidc, load_sarcomas


@pytest.fixture(scope="session")
def lidc() -> RealCase:
    return load_lidc()


@pytest.fixture(scope="session")
def sarcomas() -> tuple[RealCase, ...]:
    return load_sarcomas()


@pytest.fixture(scope="session")
def ibsi() -> RealCase:
    return load_ibsi()


@pytest.fixture(scope="session")
def deeplesion() -> tuple[RealCase, ...]:
    return load_deeplesion()
