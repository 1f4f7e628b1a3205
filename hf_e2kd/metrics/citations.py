"""BibTeX of the papers that the metrics come from."""

GOOD_TEACHERS_EXPLAIN = r"""@inproceedings{parchamiaraghi2024good,
    title = {Good Teachers Explain: Explanation-Enhanced Knowledge Distillation},
    author = {Parchami-Araghi, Amin and B{\"o}hle, Moritz and Rao, Sukrut and Schiele, Bernt},
    booktitle = {European Conference on Computer Vision},
    year = {2024}
}"""

SCORE_CAM = r"""@inproceedings{wang2020score,
    title = {Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks},
    author = {Wang, Haofan and Wang, Zifan and Du, Mengnan and Yang, Fan and Zhang, Zijian and Ding, Sirui and
              Mardziel, Piotr and Hu, Xia},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops},
    year = {2020}
}"""

MODEL_GUIDANCE = r"""@inproceedings{rao2023studying,
    title = {Studying How to Efficiently and Effectively Guide Models with Explanations},
    author = {Rao, Sukrut and B{\"o}hle, Moritz and Parchami-Araghi, Amin and Schiele, Bernt},
    booktitle = {IEEE/CVF International Conference on Computer Vision},
    year = {2023}
}"""

KD_INTERPRETABILITY = r"""@inproceedings{han2023impact,
    title = {On the Impact of Knowledge Distillation for Model Interpretability},
    author = {Han, Hyeongrok and Kim, Siwon and Choi, Hyun-Soo and Yoon, Sungroh},
    booktitle = {International Conference on Machine Learning},
    year = {2023}
}"""

POSITIVE_CONGRUENT = r"""@inproceedings{yan2021positive,
    title = {Positive-Congruent Training: Towards Regression-Free Model Updates},
    author = {Yan, Sijie and Xiong, Yuanjun and Kundu, Kaustav and Yang, Shuo and Deng, Siqi and Wang, Meng and Xia, Wei
              and Soatto, Stefano},
    booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
    year = {2021}
}"""

SYNTHESISED_TRUTH = r"""@article{tjoa2020quantifying,
    title = {Quantifying Explainability of Saliency Methods in Deep Neural Networks},
    author = {Tjoa, Erico and Guan, Cuntai},
    journal = {arXiv preprint arXiv:2009.02899},
    year = {2020}
}"""

X_DISTILLATION = r"""@inproceedings{alharbi2021learning,
    title = {Learning Interpretation with Explainable Knowledge Distillation},
    author = {Alharbi, Raed and Vu, Minh N. and Thai, My T.},
    booktitle = {IEEE International Conference on Big Data},
    year = {2021}
}"""
