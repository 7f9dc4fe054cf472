"""Forward-mode rules for the layers of networks: values are computed and recorded as usual, their tangents beside them, not recorded.

In a pass that is recorded for a backward, torch's own forward mode records the operations on tangents too: time and memory for a second
derivative that is never taken. Here every operation that meets a tangent has a rule:

    linear.py      f(ẋ); max pooling: ẋ where the maximum was
    products.py    B(ẋ, w) + B(x, ẇ): convolutions, linear layers, matrix products; attention
    pointwise.py   f′(x) ẋ is what the recorded backward of f makes of ẋ, because a diagonal Jacobian is its own transpose
                   (softmax and dropout too)
    norms.py       γ J ẋ + (γ̇ x̂ + β̇): J, the Jacobian of x̂, is symmetric too, so J ẋ is the backward of a norm without scale;
                   the bracket is the norm with scale γ̇ and shift β̇
    fallback.py    any other operation: torch's forward mode for it alone, at the cost of a second pass of it; two reverse passes of it
                   where it has no forward mode

`CannotTrace` is raised for what cannot be traced operation by operation: writing into part of a tensor, and what torch does not show (a
custom autograd function). So is it for a result that has a gradient and no tangent: its tangent is unknown, not zero.

    x a value   dx its tangent ẋ, None where it is zero   B images   C channels   *S spatial axes

These calls of torch are private, so a new version of torch may change them (the tests of this package show it):

    tracing.py     Tensor._make_subclass, _is_view, _version
    fallback.py    Tensor._version, torch._decomp.decompositions_for_jvp
    pointwise.py   torch._C._autograd._top_saved_tensors_default_hooks
    products.py    torch.ops.aten._safe_softmax, torch._softmax_backward_data
    norms.py       torch.native_{batch,layer,group}_norm, torch.ops.aten.native_{batch,layer,group}_norm_backward
    all            torch.utils._pytree; beside this package, module_state.py uses nn.Module._buffers and _parameters, tangents.py
                   torch._dynamo, lost_gradients.py Tensor._version
"""
