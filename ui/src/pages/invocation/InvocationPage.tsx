import { Page } from "@/app/Page";
import { Empty } from "@/design/states";

export default function InvocationPage() {
  return (
    <Page title="Invocation">
      <Empty title="Nothing here yet" />
    </Page>
  );
}
