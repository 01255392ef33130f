"""The entry point of lmms-eval for our models, alone: lmms-eval imports it before its models."""

from __future__ import annotations

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest("reground", chat_class_path="reground.integrations.lmms_model.ReGround")
