"""BibTeX of the methods that a student was trained and measured by."""

from ..fidelity.record import FidelityRecord
from ..metrics.citations import GOOD_TEACHERS_EXPLAIN, KD_INTERPRETABILITY, MODEL_GUIDANCE, SCORE_CAM
from ..terms.logits import logits_citation
from ..terms.registry import term_citation
from .methods import further_terms, methods, terms

NEGATIVE_FLIPS = r"""@inproceedings{yan2021positive,
    title = {Positive-Congruent Training: Towards Regression-Free Model Updates},
    author = {Yan, Sijie and Xiong, Yuanjun and Kundu, Kaustav and Yang, Shuo and Deng, Siqi and Wang, Meng and
              Xia, Wei and Soatto, Stefano},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
    year = {2021}
}"""

RISE = r"""@inproceedings{petsiuk2018rise,
    title = {{RISE}: Randomized Input Sampling for Explanation of Black-box Models},
    author = {Petsiuk, Vitali and Das, Abir and Saenko, Kate},
    booktitle = {British Machine Vision Conference},
    year = {2018}
}"""

ERASER = r"""@inproceedings{deyoung2020eraser,
    title = {{ERASER}: A Benchmark to Evaluate Rationalized {NLP} Models},
    author = {DeYoung, Jay and Jain, Sarthak and Rajani, Nazneen Fatema and Lehman, Eric and Xiong, Caiming and
              Socher, Richard and Wallace, Byron C.},
    booktitle = {Annual Meeting of the Association for Computational Linguistics},
    year = {2020}
}"""

EXPLAINERS = {
    "attention_gradient": r"""@inproceedings{chefer2021generic,
    title = {Generic Attention-Model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers},
    author = {Chefer, Hila and Gur, Shir and Wolf, Lior},
    booktitle = {IEEE/CVF International Conference on Computer Vision},
    year = {2021}
}""",
    "attention_rollout": r"""@inproceedings{abnar2020quantifying,
    title = {Quantifying Attention Flow in Transformers},
    author = {Abnar, Samira and Zuidema, Willem},
    booktitle = {Annual Meeting of the Association for Computational Linguistics},
    year = {2020}
}""",
    "bcos": r"""@inproceedings{bohle2022bcos,
    title = {B-cos Networks: Alignment is All We Need for Interpretability},
    author = {B{\"o}hle, Moritz and Fritz, Mario and Schiele, Bernt},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
    year = {2022}
}""",
    "gradcam": r"""@inproceedings{selvaraju2017gradcam,
    title = {Grad-CAM: Visual Explanations from Deep Networks via Gradient-Based Localization},
    author = {Selvaraju, Ramprasaath R. and Cogswell, Michael and Das, Abhishek and Vedantam, Ramakrishna and
              Parikh, Devi and Batra, Dhruv},
    booktitle = {IEEE International Conference on Computer Vision},
    year = {2017}
}""",
    "hires_cam": r"""@misc{draelos2020hirescam,
    title = {Use {HiResCAM} instead of {Grad-CAM} for Faithful Explanations of Convolutional Neural Networks},
    author = {Draelos, Rachel Lea and Carin, Lawrence},
    year = {2020},
    eprint = {2011.08891},
    archivePrefix = {arXiv}
}""",
    "input_x_gradient": r"""@misc{shrikumar2016just,
    title = {Not Just a Black Box: Learning Important Features Through Propagating Activation Differences},
    author = {Shrikumar, Avanti and Greenside, Peyton and Shcherbina, Anna and Kundaje, Anshul},
    year = {2016},
    eprint = {1605.01713},
    archivePrefix = {arXiv}
}""",
    "integrated_gradients": r"""@inproceedings{sundararajan2017axiomatic,
    title = {Axiomatic Attribution for Deep Networks},
    author = {Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi},
    booktitle = {International Conference on Machine Learning},
    year = {2017}
}""",
    "layer_cam": r"""@article{jiang2021layercam,
    title = {{LayerCAM}: Exploring Hierarchical Class Activation Maps for Localization},
    author = {Jiang, Peng-Tao and Zhang, Chang-Bin and Hou, Qibin and Cheng, Ming-Ming and Wei, Yunchao},
    journal = {IEEE Transactions on Image Processing},
    year = {2021}
}""",
    "lrp": r"""@inproceedings{ali2022xai,
    title = {{XAI} for Transformers: Better Explanations through Conservative Propagation},
    author = {Ali, Ameen and Schnake, Thomas and Eberle, Oliver and Montavon, Gr{\'e}goire and M{\"u}ller, Klaus-Robert
              and Wolf, Lior},
    booktitle = {International Conference on Machine Learning},
    year = {2022}
}
@inproceedings{achtibat2024attnlrp,
    title = {{AttnLRP}: Attention-Aware Layer-Wise Relevance Propagation for Transformers},
    author = {Achtibat, Reduan and Hatefi, Sayed Mohammad Vakilzadeh and Dreyer, Maximilian and Jain, Aakriti and
              Wiegand, Thomas and Lapuschkin, Sebastian and Samek, Wojciech},
    booktitle = {International Conference on Machine Learning},
    year = {2024}
}""",
    "gradient_shap": r"""@article{erion2021improving,
    title = {Improving Performance of Deep Learning Models with Axiomatic Attribution Priors and Expected Gradients},
    author = {Erion, Gabriel and Janizek, Joseph D. and Sturmfels, Pascal and Lundberg, Scott M. and Lee, Su-In},
    journal = {Nature Machine Intelligence},
    year = {2021}
}""",
    "kernel_shap": r"""@inproceedings{lundberg2017unified,
    title = {A Unified Approach to Interpreting Model Predictions},
    author = {Lundberg, Scott M. and Lee, Su-In},
    booktitle = {Advances in Neural Information Processing Systems},
    year = {2017}
}""",
    "lime": r"""@inproceedings{ribeiro2016should,
    title = {"Why Should {I} Trust You?": Explaining the Predictions of Any Classifier},
    author = {Ribeiro, Marco Tulio and Singh, Sameer and Guestrin, Carlos},
    booktitle = {ACM SIGKDD International Conference on Knowledge Discovery and Data Mining},
    year = {2016}
}""",
    "occlusion": r"""@inproceedings{zeiler2014visualizing,
    title = {Visualizing and Understanding Convolutional Networks},
    author = {Zeiler, Matthew D. and Fergus, Rob},
    booktitle = {European Conference on Computer Vision},
    year = {2014}
}""",
    "rise": RISE,
    "saliency": r"""@misc{simonyan2013deep,
    title = {Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps},
    author = {Simonyan, Karen and Vedaldi, Andrea and Zisserman, Andrew},
    year = {2013},
    eprint = {1312.6034},
    archivePrefix = {arXiv}
}""",
}

_METRICS = {
    "negative_flips": NEGATIVE_FLIPS,
    "energy_pointing_game": SCORE_CAM,
    "localization_iou": MODEL_GUIDANCE,
    "word_accuracy": KD_INTERPRETABILITY,
    "word_auroc": KD_INTERPRETABILITY,
    "word_auprc": KD_INTERPRETABILITY,
    "deletion": RISE,
    "insertion": RISE,
    "comprehensiveness": ERASER,
    "sufficiency": ERASER,
}

_LIBRARY = r"""@software{hf_e2kd,
    title = {hf\_e2kd: explanation-enhanced knowledge distillation for Hugging Face models},
    author = {{The hf\_e2kd authors}},
    year = {2026}
}"""


def citations(record: FidelityRecord) -> list[str]:
    """BibTeX entries of what was really used, each once: losses, explainers, metrics and the library."""
    found = []
    used = methods(record.training)
    if "e2kd" in used:
        found.append(GOOD_TEACHERS_EXPLAIN)
    if "guidance" in used:
        found.append(MODEL_GUIDANCE)
    if "logits" in used and record.training is not None:
        found.append(logits_citation(record.training.arguments.get("logits_loss", "auto")))
    found += [entry for name in further_terms(record.training) if (entry := term_citation(name)) is not None]
    measured = {"explanation_similarity", "energy_pointing_game", "localization_iou", *_METRICS} & record.figures.keys()
    explained = [
        explainer["name"]
        for explainer in (record.explainer, record.teacher_explainer)
        if explainer is not None and "name" in explainer and measured - {"negative_flips"}
    ]
    matched = [term for term in terms(record.training) if term.explanation_weight > 0]
    explained += [(term.explainer or record.explainer).get("name") for term in matched]
    explained += [held_out.explainer.get("name") for held_out in record.held_out]
    found += [EXPLAINERS[name] for name in explained if name in EXPLAINERS]
    found += [entry for name, entry in _METRICS.items() if name in measured]
    return list(dict.fromkeys([*found, _LIBRARY]))
