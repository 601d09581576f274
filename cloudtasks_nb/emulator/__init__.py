"""A complete local Cloud Tasks: ``python -m cloudtasks_nb.emulator``.

A room a step: model, store, dispatch, api, faces; each imports only those before it.
"""
