// Compares src/openvino_abi.h with OpenVINO's published C headers, when it is compiled with their folder on the include path.
#include <openvino/c/openvino.h>

#include <cstddef>
#include <type_traits>

#include "openvino_abi.h"

namespace {

using namespace genin::ov;

// Of the same size, and both pointers or neither: as calling conventions see a type. Opaque structs have other names here.
template <class A, class B>
constexpr bool alike = std::is_void_v<A> ? std::is_void_v<B> : std::is_pointer_v<A> == std::is_pointer_v<B>;

template <class A, class B>
struct Same;

template <class R, class... A, class S, class... B>
struct Same<R(A...), S(B...)> {
    template <class, class>
    struct Arguments : std::false_type {};
    template <class... T>
    struct List {};
    template <class... T, class... U>
    struct Arguments<List<T...>, List<U...>> {
        static constexpr bool value = (... && (alike<T, U> && sizeof(T) == sizeof(U)));
    };
    static constexpr bool value = [] {
        if constexpr (sizeof...(A) == sizeof...(B)) return alike<R, S> && Arguments<List<A...>, List<B...>>::value;
        else return false;
    }();
};

template <class R, class... A, class S, class... B>
struct Same<R(A..., ...), S(B..., ...)> : Same<R(A...), S(B...)> {};

#define GENIN_SAME(field, name, result, arguments) static_assert(Same<decltype(name), result arguments>::value, #name " has another type");
GENIN_OV_FUNCTIONS(GENIN_SAME)

static_assert(sizeof(Shape) == sizeof(ov_shape_t) && offsetof(Shape, dims) == offsetof(ov_shape_t, dims));
static_assert(sizeof(Version) == sizeof(ov_version_t) && offsetof(Version, build) == offsetof(ov_version_t, buildNumber));

}  // namespace

int main() { return 0; }
