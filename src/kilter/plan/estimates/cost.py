"""Prices of GPU-hours, which the user gives: none are shipped, since they differ by provider and by week."""

from typing import TYPE_CHECKING, Annotated

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from kilter.errors import WrongInput
from kilter.model import Model
from kilter.plan.estimates.amounts import Amount
from kilter.plan.estimates.hardware import hardware

if TYPE_CHECKING:
    from kilter.plan.estimates.hardware import Machine

_PRICES = TypeAdapter(dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]])


class Price(Model):
    """What one GPU costs for an hour."""

    per_gpu_hour: float
    currency: str


def price_of(text: str, machine: "Machine", source: str) -> Price:
    """Return a machine's price from a price file: YAML with `currency`, and a number for each kind of GPU.

    Args:
        text: the file's text.
        machine: whose price is wanted.
        source: the file's name, for errors.

    Raises:
        WrongInput: the file is not such a file, names machines that are not in the table, or lacks this one.
    """
    example = f"write, for example, {{{machine.name}: 2.5, currency: EUR}}"
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WrongInput(f"{source} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise WrongInput(f"{source} holds no prices: {example}")
    currency = data.pop("currency", None)
    if not isinstance(currency, str):
        raise WrongInput(f"{source} does not say the currency: {example}")
    if unknown := [str(name) for name in data if name not in hardware().machines]:
        raise WrongInput(f"{source} names {', '.join(unknown)}; there are {', '.join(hardware().machines)}")
    try:
        prices = _PRICES.validate_python(data)
    except ValidationError as error:
        wrong = ", ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise WrongInput(f"{source}: {wrong}; {example}") from error
    if machine.name not in prices:
        raise WrongInput(f"{source} has no price for {machine.name}: {example}")
    return Price(per_gpu_hour=prices[machine.name], currency=currency)


def cost_of(gpu_hours: Amount | None, price: Price | None) -> Amount | None:
    """Return what GPU-hours cost; None where either is not known."""
    return None if gpu_hours is None or price is None else gpu_hours.times(price.per_gpu_hour)
