// Checks of adamw.cu.
#include "checks.hpp"
#include "../../src/ops/gpu/kernels/adamw.cu"

// Several tensors of odd sizes, one of them off a multiple of 16 bytes.
template <class P, class G> struct Parameters {
    std::vector<std::unique_ptr<Buffer<P>>> p;
    std::vector<std::unique_ptr<Buffer<G>>> g;
    std::vector<std::unique_ptr<Buffer<float>>> m, v, master;
    std::unique_ptr<Buffer<Tensor_>> tensors;
    std::unique_ptr<Buffer<Chunk>> chunks;
    bool masters;

    explicit Parameters(bool masters) : masters(masters)
    {
        std::vector<Tensor_> rows;
        std::vector<Chunk> all;
        std::normal_distribution<float> normal;
        for (size_t n : {size_t(1), size_t(4096), size_t(4097), size_t(333), size_t(12289)}) {
            const size_t shift = n == 333 ? 1 : 0;
            p.push_back(std::make_unique<Buffer<P>>(n, shift));
            g.push_back(std::make_unique<Buffer<G>>(n, shift));
            m.push_back(std::make_unique<Buffer<float>>(n));
            v.push_back(std::make_unique<Buffer<float>>(n));
            master.push_back(std::make_unique<Buffer<float>>(n, shift));
            for (size_t i = 0; i < n; ++i) {
                (*master.back())[i] = normal(generator());
                (*p.back())[i] = from_f32<P>((*master.back())[i]);
                (*g.back())[i] = from_f32<G>(normal(generator()) * 0.1f);
                (*m.back())[i] = normal(generator()) * 0.1f;
                (*v.back())[i] = std::fabs(normal(generator())) * 0.01f;
            }
            // From an end, so that the order of chunks is not that of the tensors.
            for (size_t chunk = (n + 4095) / 4096; chunk-- > 0;) all.push_back({static_cast<unsigned>(rows.size()), static_cast<unsigned>(chunk)});
            rows.push_back({p.back()->get(), g.back()->get(), m.back()->get(), v.back()->get(), masters ? master.back()->get() : nullptr, n});
        }
        tensors = copied(rows);
        chunks = copied(all);
    }
    unsigned blocks() const { return static_cast<unsigned>(chunks->size()); }
    std::vector<Output> state()
    {
        std::vector<Output> all;
        for (size_t i = 0; i < p.size(); ++i) {
            all.push_back(updated(*p[i]));
            all.push_back(updated(*m[i]));
            all.push_back(updated(*v[i]));
            if (masters) all.push_back(updated(*master[i]));
        }
        return all;
    }
    template <class B> static std::vector<double> joined(const std::vector<std::unique_ptr<B>>& buffers)
    {
        std::vector<double> all;
        for (const auto& buffer : buffers) {
            const auto values = buffer->values();
            all.insert(all.end(), values.begin(), values.end());
        }
        return all;
    }
};

// In the first step the averages are nothing but the shares of the gradient.
template <class P, class G, class K> void check(const std::string& name, K kernel, bool masters, bool clip, int step = 3)
{
    Parameters<P, G> all(masters);
    for (auto* averages : {&all.m, &all.v}) {
        for (auto& average : *averages) {
            for (size_t i = 0; step == 1 && i < average->size(); ++i) (*average)[i] = 0;
        }
    }
    const double lr = 0.01f, beta1 = 0.9, beta2 = 0.999, eps = 1e-8f, decay = 0.1f, correction1 = 1 - std::pow(beta1, step), correction2 = std::sqrt(1 - std::pow(beta2, step));
    Buffer<float> clipping(2);
    clipping[0] = 5;
    clipping[1] = 0.3f;
    clipping.freeze();
    auto w = masters ? all.joined(all.master) : all.joined(all.p), m = all.joined(all.m), v = all.joined(all.v);
    const auto g = all.joined(all.g);
    for (size_t i = 0; i < w.size(); ++i) {
        const double gradient = g[i] * (clip ? clipping[1] : 1.0f);
        w[i] -= lr * decay * w[i];
        m[i] = beta1 * m[i] + (1 - beta1) * gradient;
        v[i] = beta2 * v[i] + (1 - beta2) * gradient * gradient;
        w[i] -= lr / correction1 * m[i] / (std::sqrt(v[i]) / correction2 + eps);
    }
    in_all_orders(name, all.state(), [&] {
        launch(all.blocks(), 256, 0, kernel, all.tensors->get(), all.chunks->get(), clip ? clipping.get() : nullptr, static_cast<float>(lr),
               static_cast<float>(1 - beta1), static_cast<float>(1 - beta2), static_cast<float>(eps), static_cast<float>(decay), static_cast<float>(correction1),
               static_cast<float>(correction2));
    });
    if (masters) compare(name + " master", all.joined(all.master), w, 1e-6);
    compare(name + " parameter", all.joined(all.p), w, sizeof(P) == 4 ? 1e-6 : NameOf<P>::rounding * 1.02, sizeof(P) == 4 ? 1.0 : 0.01);
    compare(name + " m", all.joined(all.m), m, 1e-6);
    compare(name + " v", all.joined(all.v), v, 1e-6);
}

template <class G, class N, class S> void check_norm(const std::string& name, N squared_norm, S scale_gradients, float max_norm, float grad_scale)
{
    Parameters<float, G> all(false);
    Buffer<float> partial(all.blocks()), result(2);
    auto g = all.joined(all.g);
    double sum = 0;
    for (double x : g) sum += x * x;
    const double norm = std::sqrt(sum) * grad_scale, factor = grad_scale * (max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0);
    in_all_orders(name, {output(partial)}, [&] { launch(all.blocks(), 256, 0, squared_norm, all.tensors->get(), all.chunks->get(), partial.get()); });
    for (unsigned threads : {32u, 256u, 1024u}) {
        in_all_orders(name, {output(result)}, [&] { launch(1, threads, 0, norm_finish, partial.get(), static_cast<int>(all.blocks()), max_norm, grad_scale, result.get(), nullptr); });
        compare(join(name, "threads", threads), result.values(), {norm, factor}, 1e-6, 1e-9);
    }
    std::vector<Output> gradients;
    for (auto& buffer : all.g) gradients.push_back(updated(*buffer));
    in_all_orders(name, gradients, [&] { launch(all.blocks(), 256, 0, scale_gradients, all.tensors->get(), all.chunks->get(), result.get()); });
    for (double& x : g) x *= factor;
    compare(name + " scaled", all.joined(all.g), g, sizeof(G) == 4 ? 1e-6 : NameOf<G>::rounding * 1.02, sizeof(G) == 4 ? 1.0 : 0.01);
}

// A factor that is no number leaves all as it is.
void check_skipped()
{
    Parameters<bf16, bf16> all(true);
    Buffer<float> clipping(2);
    clipping[0] = clipping[1] = NAN;
    const auto state = [&] { return std::vector<std::vector<double>>{all.joined(all.p), all.joined(all.m), all.joined(all.v), all.joined(all.master)}; };
    const auto before = state();
    launch(all.blocks(), 256, 0, adamw_bf16_bf16, all.tensors->get(), all.chunks->get(), clipping.get(), 0.01f, 0.1f, 0.001f, 1e-8f, 0.1f, 0.1f, 0.03f);
    expect("adamw: a factor of NaN changes nothing", state() == before);
}

int main()
{
    for (bool clip : {false, true}) {
        check<float, float>(join("adamw f32 f32", "clip", clip), adamw_f32_f32, false, clip);
        check<float, float>(join("adamw f32 f32 first step", "clip", clip), adamw_f32_f32, false, clip, 1);
        for (bool masters : {false, true}) {
            check<bf16, float>(join("adamw bf16 f32", "clip", clip, "master", masters), adamw_bf16_f32, masters, clip);
            check<bf16, bf16>(join("adamw bf16 bf16", "clip", clip, "master", masters), adamw_bf16_bf16, masters, clip);
        }
    }
    for (float max_norm : {0.0f, 1.0f, 1e6f}) {
        check_norm<float>("norm f32 max " + std::to_string(max_norm), squared_norm_f32, scale_gradients_f32, max_norm, 0.5f);
        check_norm<bf16>("norm bf16 max " + std::to_string(max_norm), squared_norm_bf16, scale_gradients_bf16, max_norm, 1.0f);
    }
    // More partial sums than threads, and a gradient that is not finite.
    auto partial = normal<float>(5000, 0.1, 1.0);
    Buffer<float> result(2), bad(3);
    double sum = 0;
    for (double x : partial->values()) sum += x;
    in_all_orders("norm_finish", {output(result)}, [&] { launch(1, 1024, 0, norm_finish, partial->get(), 5000, 2.0f, 1.0f, result.get(), nullptr); });
    compare("norm_finish count=5000", result.values(), {std::sqrt(sum), 2 / (std::sqrt(sum) + 1e-6)}, 1e-6, 1e-9);
    for (float x : {INFINITY, NAN}) {
        bad[0] = bad[2] = 1;
        bad[1] = x;
        in_all_orders("norm_finish", {output(result)}, [&] { launch(1, 256, 0, norm_finish, bad.get(), 3, 0.0f, 1.0f, result.get(), nullptr); });
        expect("norm_finish: of a norm that is not finite the factor is NaN", !std::isfinite(result[0]) && std::isnan(result[1]));
    }
    // A norm that was not finite is remembered, and changes nothing from then on.
    Buffer<float> broken(1);
    broken[0] = 0;
    bad[1] = 1;
    launch(1, 32, 0, norm_finish, bad.get(), 3, 0.0f, 1.0f, result.get(), broken.get());
    expect("norm_finish: a finite norm breaks nothing", broken[0] == 0 && result[1] == 1);
    for (float x : {INFINITY, 1.0f}) {
        bad[1] = x;
        launch(1, 32, 0, norm_finish, bad.get(), 3, 0.0f, 1.0f, result.get(), broken.get());
        expect("norm_finish: what broke stays broken", broken[0] == 1 && std::isnan(result[1]));
    }
    check_skipped();
    return finish();
}
