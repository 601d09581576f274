"""A complete local emulator of Cloud Tasks: ``python -m cloudtasks_nb.emulator``.

Its packages, each of which imports only those before it: model, store, dispatch, api, frontends, strict. The last
one is loaded with ``--strict`` only: `strict.parts` replaces what `frontends.parts` has.
"""
