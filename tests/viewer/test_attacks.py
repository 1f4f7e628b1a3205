"""Requests that no page sends: the viewer opens nothing but uploaded images, one after the other."""

import os
from importlib.util import find_spec

import pytest

from hf_e2kd.explainers import build_explainer
from hf_e2kd.viewer.settings import Settings, Viewing

from .pairs import image_pair, photo

# Not imported here, where each process that collects tests would take seconds for it.
pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="no gradio: pip install 'hf-e2kd[viewer]'")
httpx = pytest.importorskip("httpx")


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads").mkdir()
    return tmp_path / "uploads"


@pytest.fixture
def viewing():
    return Viewing(Settings("teacher", "student"), image_pair(), {"gradcam": build_explainer("gradcam")})


def _asked(viewing, path):
    from hf_e2kd.viewer.app import Answers

    return Answers(viewing, None).compare({"path": path}, None, "gradcam", "teacher_top", None)[3:]


def test_no_file_but_uploaded_ones(uploads, viewing, tmp_path):
    """Prevents: any image of the server disclosed, a file's existence told, and a page that hangs on a FIFO."""
    photo().save(tmp_path / "private.png")
    os.mkfifo(uploads / "pipe")
    (uploads / "link.png").symlink_to(tmp_path / "private.png")
    paths = [str(tmp_path / "private.png"), str(tmp_path / "nothing.png"), "/dev/zero", f"{uploads}/../private.png"]
    paths += [str(uploads / "pipe"), str(uploads / "link.png"), str(uploads), "a\0b", None, 3]
    told = {_asked(viewing, path)[0] for path in paths}
    assert len(told) == 1 and "That is no uploaded image" in told.pop()
    photo().save(uploads / "mine.png")
    html, comparison = _asked(viewing, str(uploads / "mine.png"))
    assert comparison is not None and "<img" in html


def test_large_uploads(uploads, viewing):
    """Prevents: memory filled by one request, before an image is found too large."""
    with open(uploads / "large.png", "wb") as file:
        file.truncate(100 * 2**20 + 1)
    assert "larger than 100MB" in _asked(viewing, str(uploads / "large.png"))[0]


def test_requests_beside_the_queue(uploads, viewing, tmp_path):
    """Prevents: requests that reach the models past the queue, and open files by their path."""
    from hf_e2kd.viewer.app import build_page, serve

    photo().save(tmp_path / "private.png")
    page = build_page(viewing)
    _, address, _ = serve(page, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    try:
        data = [{"path": str(tmp_path / "private.png")}, None, "gradcam", "teacher_top", None]
        answered = [number for number, function in page.fns.items() if function.fn is not None]
        assert len(answered) == 6
        for number in answered:
            body = {"fn_index": number, "data": data, "session_hash": "s"}
            answer = httpx.post(f"{address.rstrip('/')}/gradio_api/run/predict", json=body)
            assert answer.status_code == 404 and "data:image" not in answer.text
    finally:
        page.close()
