"""A `Trainer` whose uploads to the Hub never cost what was trained."""

from functools import partial
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .hub import check_online, check_repo_id, push_folder, repo_name, retried, warn_of_failed_uploads


class PublishingTrainer(Trainer):
    """Saves before it uploads, tries again what failed in passing, and says what is to be done about the rest."""

    hub_model_id: str | None

    def _save(self, *arguments: Any, **keywords: Any) -> None:
        # `Trainer` pickles the arguments beside the weights, and publishes both.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(*arguments, **keywords)
        finally:
            self.args.hub_token = token

    def init_hf_repo(self, *arguments: Any, **keywords: Any) -> None:
        check_repo_id(repo_name(self.args))
        check_online()
        retried(partial(super().init_hf_repo, *arguments, **keywords))

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> Any:
        """Saves the student, writes its card and uploads both, as `Trainer` does with the same arguments.

        It is saved before anything goes over the network, so that whatever fails there costs no training. What fails
        in passing is tried again, and calling it anew sends what is missing.

        Raises:
            ValueError: the repository's name can't be one.
            UploadError: (an OSError) saying where the student lies and how to finish the upload.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        repo_id = self.hub_model_id or repo_name(self.args)
        tags = getattr(self.model, "model_tags", None)
        if tags:
            given = card.get("tags") or []
            card["tags"] = list(dict.fromkeys([*([given] if isinstance(given, str) else given), *tags]))
        self.create_model_card(**{"model_name": repo_id.split("/")[-1], **card})
        self._finish_current_push()
        upload = partial(
            push_folder,
            self.args.output_dir,
            repo_id,
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
            commit_message=commit_message or "End of training",
            ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"],
        )
        if not blocking:
            return HfApi().run_as_future(upload)
        commit = upload()
        self.hub_model_id = commit.repo_url.repo_id
        return commit

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        before = getattr(self, "push_in_progress", None)
        super()._push_from_checkpoint(checkpoint_folder)
        warn_of_failed_uploads(self, before)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        warn_of_failed_uploads(self, getattr(self, "push_in_progress", None))
