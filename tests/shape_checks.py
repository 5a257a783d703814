"""The type checker of the import hook: beartype, with int accepted where float is declared, as PEP 484 says."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
