"""A folder that stock transformers, vLLM and SGLang load as ``LlavaForConditionalGeneration``.

Stock LLaVA has two projector layers around an activation; ours is one linear layer, and is written into theirs exactly:
with ``relu``, x = relu(x) - relu(-x), so the first layer holds I and -I and the second W and -W. That takes twice the
vision width in the hidden width; below that the ``linear`` form (W, then I) is written, which transformers loads and
vLLM and SGLang do not. Tower keys are in the ``vision_tower.vision_model.`` layout, the one that all of them accept.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch

from llava.conversations import IMAGE
from llava.model import IMAGE_ENDS, LlavaModel, input_rows
from llava.templates import Template


def export_hf(model: LlavaModel, folder: Path) -> str:
    """Write model, processor, tokenizer and chat template; returns the projector's form, ``relu`` or ``linear``."""
    from huggingface_hub import save_torch_state_dict
    from transformers import GenerationConfig, LlavaConfig, LlavaProcessor

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    image_id = cast(int, tokenizer.convert_tokens_to_ids(IMAGE))
    num_rows = max(len(tokenizer), input_rows(model.language_model).weight.shape[0])
    form, projector = _projector(model)
    text = copy.deepcopy(model.language_model.config)
    text.vocab_size = num_rows
    template = chat_template(model.template, model.image_ends is not None)
    strategy = "default" if model.config.feature == "patch" else "full"
    config = LlavaConfig(vision_config=model.vision_tower.config, text_config=text, image_token_index=image_id,
                         projector_hidden_act=form, vision_feature_layer=model.config.select_layer,
                         vision_feature_select_strategy=strategy, image_seq_length=model.num_image_tokens,
                         tie_word_embeddings=text.tie_word_embeddings)
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = model.projector.weight.dtype
    config.save_pretrained(folder)
    save_torch_state_dict({**_backbone(model, num_rows), **projector}, folder)
    GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
                     pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    LlavaProcessor(image_processor=_image_processor(model), tokenizer=tokenizer,
                   patch_size=cast(Any, model.vision_tower.config).patch_size, vision_feature_select_strategy=strategy,
                   num_additional_image_tokens=1, chat_template=template).save_pretrained(folder)
    return form


def _projector(model: LlavaModel) -> tuple[str, dict[str, torch.Tensor]]:
    weight, bias = model.projector.weight.detach(), cast(torch.Tensor, model.projector.bias).detach()
    width, vision = weight.shape
    first, second = weight.new_zeros(width, vision), weight.new_zeros(width, width)
    first_bias, second_bias = torch.zeros_like(bias), torch.zeros_like(bias)
    if 2 * vision <= width:
        form = "relu"
        eye = torch.eye(vision, dtype=weight.dtype)
        first[:vision], first[vision:2 * vision] = eye, -eye
        second[:, :vision], second[:, vision:2 * vision] = weight, -weight
        second_bias = bias.clone()
    else:
        form = "linear"
        first, first_bias, second = weight.clone(), bias.clone(), torch.eye(width, dtype=weight.dtype)
    return form, {"multi_modal_projector.linear_1.weight": first, "multi_modal_projector.linear_1.bias": first_bias,
                  "multi_modal_projector.linear_2.weight": second, "multi_modal_projector.linear_2.bias": second_bias}


def _backbone(model: LlavaModel, num_rows: int) -> dict[str, torch.Tensor]:
    """Tower and language model; new rows (the image mark's, which is never looked up) are the mean of the others."""
    state = {f"vision_tower.vision_model.{n}": t.detach() for n, t in model.vision_tower.state_dict().items()}
    for name, tensor in model.language_model.state_dict().items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name == "lm_head.weight" and model.language_model.config.tie_word_embeddings:
                continue
            missing = num_rows - tensor.shape[0]
            tensor = torch.cat([tensor, tensor.mean(dim=0, keepdim=True).expand(missing, -1)])
        state[f"language_model.{name}"] = tensor.detach().contiguous()
    return state


def _image_processor(model: LlavaModel) -> Any:
    if model.config.image_aspect == "square":
        return model.preprocessor.processor
    from transformers import LlavaImageProcessorPil

    ours = cast(Any, model.preprocessor.processor)
    return LlavaImageProcessorPil(do_pad=True, size=ours.size, crop_size=ours.crop_size, image_mean=ours.image_mean,
                                  image_std=ours.image_std, resample=ours.resample)


def chat_template(template: Template, image_ends: bool) -> str:
    """The template as Jinja over OpenAI-like messages; a picture part is a mark on a line of its own."""
    mark = f"{IMAGE_ENDS[0]}{IMAGE}{IMAGE_ENDS[1]}" if image_ends else IMAGE

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"

    before, _, after = template.opening.partition("{system}")
    words = f"{{{{ part['text'] if part['type'] == 'text' else {quoted(mark + chr(10))} }}}}"
    pictures = f"{{{{ {quoted(mark)} if part['type'] != 'text' else '' }}}}"
    human = ("{% if message['content'] is string %}{{ " + ("message['content']" if template.instruction else "''")
             + " }}{% else %}{% for part in message['content'] %}" + (words if template.instruction else pictures)
             + "{% endfor %}{% endif %}")
    answer = ("{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in "
              "message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}")
    begin = "{{ bos_token or '' }}"
    return (
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] if messages[0]['content'] is "
        "string else messages[0]['content'][0]['text'] %}{% set messages = messages[1:] %}{% else %}"
        f"{{% set system = {quoted(template.system)} %}}{{% endif %}}{begin}"
        + (f"{{{{ {quoted(before)} + system + {quoted(after)} }}}}" if template.opening else "")
        + "{% for message in messages %}{% if message['role'] == 'user' %}"
        f"{{{{ {quoted(template.first_human)} if loop.first else {quoted(template.next_human)} }}}}"
        + human + f"{{{{ {quoted(template.assistant)} }}}}"
        "{% else %}"
        f"{{{{ {quoted(template.lead)} }}}}" + answer + f"{{{{ {quoted(template.stop)} }}}}"
        + ("{{ eos_token }}" if template.end else "")
        + ("{% if not loop.last %}" + begin + "{% endif %}" if template.next_begin else "")
        + (f"{{% if loop.last %}}{{{{ {quoted(template.tail)} }}}}{{% endif %}}" if template.tail else "")
        + "{% endif %}{% endfor %}"
    )
